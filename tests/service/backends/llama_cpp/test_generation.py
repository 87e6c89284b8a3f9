import json

from service.backends import CallText, FunctionCallBegins, ItemEnds, Produced, Text
from service.backends.http import Deadlines, HttpClient
from service.backends.llama_cpp.generation import CALL_ENDS, Generation
from service.backends.llama_cpp.held import Held
from service.backends.llama_cpp.output import FreeReader
from service.backends.llama_cpp.prompt import RenderedPrompt
from service.backends.llama_cpp.server import LlamaServer
from service.backends.llama_cpp.slots import Lease
from service.backends.tools import Toolbox
from service.conversation import Rendered
from tests.service.backends.llama_cpp.conftest import LlamaAddress
from tests.service.backends.llama_cpp.conversing import function

TOOLS = Toolbox([function("look")])
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "me"}}\n</tool_call>'


async def test_a_call_is_parsed_as_it_is_sampled_and_what_was_sampled_is_kept(
    llama_address: LlamaAddress,
) -> None:
    produced, finished = await generate(llama_address, f"Well.\n{CALL}", stop=[])
    assert produced == said("Well.")
    assert bytes(map(int, finished.data.split(b","))).decode() == f"Well.\n{CALL}"


async def test_one_call_is_all_where_only_one_is_allowed(llama_address: LlamaAddress) -> None:
    produced, finished = await generate(llama_address, f"Well.\n{CALL}\n{CALL}", stop=[CALL_ENDS])
    assert produced == said("Well.")
    assert bytes(map(int, finished.data.split(b","))).decode() == f"Well.\n{CALL}"


async def test_the_end_of_a_turn_is_not_kept_where_it_came_with_text(
    llama_address: LlamaAddress,
) -> None:
    produced, finished = await generate(llama_address, "Well.</tool", stop=[CALL_ENDS])
    assert produced == [Text("Well.</tool")]
    assert bytes(map(int, finished.data.split(b","))).decode() == "Well.</tool"


def said(text: str) -> list[Produced]:
    return [Text(text), FunctionCallBegins("look"), CallText('{"at": "me"}'), ItemEnds()]


async def generate(
    address: LlamaAddress, answer: str, stop: list[str]
) -> tuple[list[Produced], Rendered]:
    """Have the model say exactly this."""
    server = server_at(address)
    prompt = RenderedPrompt(TOOLS, [Rendered(b"65", 1)], Rendered(b"", 0))
    generation = Generation(server, Lease(0, reuse=False), prompt, {"n_predict": 999})
    options = {"grammar": f"root ::= {json.dumps(answer)}", "stop": stop}
    produced: list[Produced] = []
    async for batch in generation.sample(options, FreeReader(TOOLS.tools, Held())):
        produced += batch
    server.close()
    return joined(produced), generation.finished("ids").rendered["ids"]


def server_at(address: LlamaAddress) -> LlamaServer:
    deadlines = Deadlines()
    headers = {"Authorization": f"Bearer {address.key}"}
    return LlamaServer(HttpClient(address.url, headers, deadlines), deadlines)


def joined(produced: list[Produced]) -> list[Produced]:
    text = "".join(part.text for part in produced if isinstance(part, Text))
    return [Text(text), *(part for part in produced if not isinstance(part, Text))]
