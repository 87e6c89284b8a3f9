"""Real models: behind llama.cpp's own Responses API, stateless and not written by us; and behind ours."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.backends.http import Deadlines
from service.backends.llama_cpp.embedded import Embedded, EmbeddedModel
from service.backends.responses.backend import Responses
from service.backends.responses.terms import Terms
from service.errors import ModelError
from tests.conformance.server import serving
from tests.llama_servers import LlamaAddress, llama_address, tiny_weights
from tests.service.backends.llama_cpp.conversing import call, call_output, function, user
from tests.service.backends.responses.chatting import Chat, named, text

__all__ = ["llama_address", "tiny_weights"]

DEADLINES = Deadlines(connect=5, slot=5, answer=60, read=60)
ADD = function("add", a={"type": "integer"})


@pytest.fixture
async def chat(llama_address: LlamaAddress) -> AsyncIterator[Chat]:
    backend = Responses(llama_address.url, llama_address.key, deadlines=DEADLINES)
    await backend.start()
    yield Chat(backend, model=backend.models[0], settings={"max_output_tokens": 24})
    await backend.stop()


async def test_a_conversation_goes_on_and_finds_itself_cached(chat: Chat) -> None:
    for _ in range(3):
        output = await chat.say(user("Say something. " * 20))
        assert text(output)
        assert chat.finished
        assert chat.finished.output_tokens > 0
    assert chat.finished
    assert chat.finished.cached_tokens > 200


async def test_it_reads_calls_and_their_outputs(chat: Chat) -> None:
    called = [call("add", '{"a":1}'), call_output("3")]
    assert text(await chat.say(user("Add."), *called, tools=[ADD]))
    assert text(await chat.say(user("And now?"), tools=[ADD]))


async def test_too_much_is_told_as_that(chat: Chat) -> None:
    with pytest.raises(ModelError) as failed:
        await chat.say(user("x" * 20_000))
    assert failed.value.code == "context_length_exceeded"


async def test_closing_frees_the_server(chat: Chat) -> None:
    for _ in range(4):
        batches = chat.backend.generate(
            chat.prompt(user("Go on."), max_output_tokens=3000, extra='{"ignore_eos":true}')
        )
        await anext(batches)
        await batches.aclose()
    assert await chat.say(user("Say something."))


@pytest.mark.parametrize(
    "terms",
    [Terms(state="stored"), Terms(transport="websocket", state="connection")],
    ids=named,
)
async def test_a_tool_loop_computes_only_what_is_new(
    tiny_weights: Path,
    tmp_path: Path,
    terms: Terms,
) -> None:
    model = EmbeddedModel(weights=tiny_weights, name="tiny", context=8192, slots=2, threads=1)
    asked = {"tools": [ADD], "tool_choice_mode": "required", "max_output_tokens": 64, "store": True}
    async with serving(Embedded(model), tmp_path) as server:
        url = server.websocket_url.replace("ws", "http", 1).removesuffix("/responses")
        backend = Responses(url, server.alice, terms=terms, deadlines=DEADLINES)
        await backend.start()
        chat = Chat(backend, model="tiny", settings=asked)
        output = await chat.say(user("Add. " * 50))
        for _ in range(3):
            assert chat.finished
            before = chat.finished.input_tokens + chat.finished.output_tokens
            called = output[-1].function_call
            assert called.name == "add"
            if chat.finished.reason == "stop":
                assert set(json.loads(called.arguments)) == {"a"}
            output = await chat.say(call_output("3", called.call_id))
            assert chat.finished.cached_tokens >= before - 1
        await backend.stop()
