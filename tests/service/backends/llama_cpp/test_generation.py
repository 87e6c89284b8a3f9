import json

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
from service.rendering.chat_ml import SYNTAX
from tests.service.backends.llama_cpp.conftest import LlamaAddress
from tests.service.backends.llama_cpp.conversing import function

TOOLS = Toolbox([function("look")])
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


def said(text: str) -> list[Produced]:
    return [Text(text), FunctionCallBegins("look"), CallText('{"at": "me"}'), ItemEnds()]


async def generate(
    address: LlamaAddress, answer: str, end: CallEnd | None
) -> tuple[list[Produced], list[int]]:
    """Have the model say exactly this."""
    server = server_at(address)
    prompt = [Rendered(b"65", 1)]
    generation = Generation(server, Lease(0, reuse=False), prompt, {"n_predict": 999})
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
