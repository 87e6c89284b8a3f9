import json

import pytest

from service.backends import CallText, FunctionCallBegins, ItemEnds, Produced, Text
from service.backends.http import Deadlines, HttpClient
from service.backends.llama_cpp.generation import Generation
from service.backends.llama_cpp.server import LlamaServer
from service.backends.llama_cpp.slots import Lease
from service.backends.tools import Toolbox
from service.conversation import Rendered
from service.parsing.forcing import CallEnd, call_end
from service.parsing.free import FreeReader
from service.parsing.held import Held
from service.parsing.syntax import Syntax, TaggedCalls
from service.rendering.chat_ml import SYNTAX
from tests.llama_servers import LlamaAddress
from tests.service.backends.llama_cpp.conversing import function

TOOLS = Toolbox([function("look")])
TAGS = Syntax(
    calls=TaggedCalls("<call>\n<f=", ">\n<k=", ">\n", "\n</k>\n", "</f>\n</call>"),
)
TAGGED = "Well.\n<call>\n<f=look>\n<k=at>\nxyz\n</k>\n</f>\n</call>"
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "me"}}\n</tool_call>'


async def test_a_call_is_parsed_as_it_is_sampled_and_what_was_sampled_is_kept(
    llama_address: LlamaAddress,
) -> None:
    produced, sampled = await generate(llama_address, f"Well.\n{CALL}", end=None)
    assert produced == said("Well.")
    assert bytes(sampled).decode() == f"Well.\n{CALL}"


async def test_one_call_is_all_where_only_one_is_allowed(llama_address: LlamaAddress) -> None:
    produced, sampled = await generate(
        llama_address, f"Well.\n{CALL}\n{CALL}", end=call_end(SYNTAX)
    )
    assert produced == said("Well.")
    assert bytes(sampled).decode() == f"Well.\n{CALL}"


async def test_the_end_of_a_turn_is_not_kept_where_it_came_with_text(
    llama_address: LlamaAddress,
) -> None:
    produced, sampled = await generate(llama_address, "Well.</tool", end=call_end(SYNTAX))
    assert produced == [Text("Well.</tool")]
    assert bytes(sampled).decode() == "Well.</tool"


@pytest.mark.parametrize(("word", "reason"), [("Well", "stop"), ("yz", "length"), ("!", "stop")])
async def test_a_clients_stop_word_in_a_call_leaves_it_cut_off(
    llama_address: LlamaAddress, word: str, reason: str
) -> None:
    server = server_at(llama_address)
    generation = begun(server)
    options = {"grammar": f"root ::= {json.dumps(f'{TAGGED}!')}", "stop": [word]}
    reader = FreeReader(TOOLS.tools, Held(), TAGS)
    async for _ in generation.sample(options, reader):
        pass
    server.close()
    assert generation.finished({}).reason == reason


async def test_the_end_of_the_only_call_is_no_cut(llama_address: LlamaAddress) -> None:
    server = server_at(llama_address)
    generation = begun(server)
    generation.call_end = call_end(TAGS)
    assert generation.call_end
    options = {"grammar": f"root ::= {json.dumps(TAGGED)}", "stop": [generation.call_end.word]}
    produced: list[Produced] = []
    async for batch in generation.sample(options, FreeReader(TOOLS.tools, Held(), TAGS)):
        produced += batch
    server.close()
    assert FunctionCallBegins("look") in produced
    assert generation.finished({}).reason == "stop"


def begun(server: LlamaServer) -> Generation:
    return Generation(server, Lease(0, reuse=False), [Rendered(b"65", 1)], {"n_predict": 999})


def said(text: str) -> list[Produced]:
    return [Text(text), FunctionCallBegins("look"), CallText('{"at": "me"}'), ItemEnds()]


async def generate(
    address: LlamaAddress, answer: str, end: CallEnd | None
) -> tuple[list[Produced], list[int]]:
    """Have the model say exactly this."""
    server = server_at(address)
    generation = begun(server)
    generation.call_end = end
    stop = [end.word] if end else []
    options = {"grammar": f"root ::= {json.dumps(answer)}", "stop": stop}
    produced: list[Produced] = []
    async for batch in generation.sample(options, FreeReader(TOOLS.tools, Held(), SYNTAX)):
        produced += batch
    server.close()
    return joined(produced), generation.answer


def server_at(address: LlamaAddress) -> LlamaServer:
    deadlines = Deadlines()
    headers = {"Authorization": f"Bearer {address.key}"}
    return LlamaServer(HttpClient(address.url, headers, deadlines), deadlines)


def joined(produced: list[Produced]) -> list[Produced]:
    text = "".join(part.text for part in produced if isinstance(part, Text))
    arguments = "".join(part.text for part in produced if isinstance(part, CallText))
    others = [part for part in produced if not isinstance(part, Text | CallText)]
    return [Text(text), *others[:1], *([CallText(arguments)] if arguments else []), *others[1:]]
