"""The same conversations with a real llama.cpp behind them, over every transport."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from service.backends.llama_cpp.embedded import Embedded, EmbeddedModel
from tests.conformance.clients import Connect
from tests.conformance.conversation import WAIT, Conversation
from tests.conformance.server import Server, serving
from tests.models import tiny_gguf

ADD = {
    "type": "function",
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def llama(weights: Path, tmp_path: Path) -> AsyncIterator[Server]:
    model = EmbeddedModel(weights=weights, name="tiny", context=8192, slots=2, threads=1)
    async with serving(Embedded(model), tmp_path) as started:
        yield started


@pytest.mark.rule("SS-1")
@pytest.mark.connection
async def test_a_tool_loop_prefills_only_what_is_new(llama: Server, connect: Connect) -> None:
    async with connect(llama, llama.alice) as client:
        chat = Conversation(client)
        request: dict[str, Any] = {
            "model": "tiny",
            "tools": [ADD],
            "tool_choice": "required",
            "store": False,
        }
        heard = await chat.ask("Add. " * 100, max_output_tokens=64, **request)
        for _ in range(5):
            before = heard.response.usage
            [call] = [item.function_call for item in heard.response.output]
            if heard.kinds[-1] == "completed":
                assert set(json.loads(call.arguments)) == {"a", "b"}
            output = {"type": "function_call_output", "call_id": call.call_id, "output": "3"}
            heard = await chat.ask(
                input=[output], previous_response_id=heard.id, max_output_tokens=64, **request
            )
            usage = heard.response.usage
            held = before.input_tokens + before.output_tokens
            assert usage.input_tokens_details.cached_tokens >= held - 1
            assert usage.input_tokens - usage.input_tokens_details.cached_tokens < 200
    connections = ("in-process", "websocket", "grpc")
    cached = [
        llama.sample("turnwire_prefill_tokens_total", transport=name, kind="cached")
        for name in connections
    ]
    computed = [
        llama.sample("turnwire_prefill_tokens_total", transport=name, kind="computed")
        for name in connections
    ]
    assert sum(cached) > 2 * sum(computed)


@pytest.mark.rule("SS-10")
async def test_a_client_that_vanishes_stops_llama_cpp(llama: Server, connect: Connect) -> None:
    name = "turnwire_turn_abort_seconds_count"
    transports = ("in-process", "websocket", "grpc", "http")
    async with connect(llama, llama.alice) as client:
        chat = Conversation(client)
        await chat.send(
            model="tiny",
            input="Go on for ever.",
            max_output_tokens=3000,
            ignore_eos=True,
            store=False,
        )
        await chat.hear_until("output_text_delta")
        await client.vanish()
        async with asyncio.timeout(WAIT):
            while not sum(llama.sample(name, transport=one) for one in transports):
                await asyncio.sleep(0)
    async with connect(llama, llama.alice) as client:
        heard = await Conversation(client).ask("Hello.", model="tiny", max_output_tokens=4)
    assert heard.kinds[-1] in {"completed", "incomplete"}
