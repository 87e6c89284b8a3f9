"""Turnwire in front of Turnwire: what a client of the one in front hears."""

import json
from pathlib import Path

import pytest

from service.backends.responses.backend import Responses
from service.backends.responses.terms import Terms
from tests.conformance.clients import websocket
from tests.conformance.conversation import Conversation
from tests.conformance.server import serving
from tests.service.backends.responses.chatting import named
from tests.service.backends.responses.conftest import Upstream

ADD = {"type": "function", "name": "add", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    "terms",
    [Terms(), Terms(state="stored"), Terms(transport="websocket", state="connection")],
    ids=named,
)
async def test_an_agents_loop(upstream: Upstream, tmp_path: Path, terms: Terms) -> None:
    backend = Responses(upstream.url, upstream.key, terms=terms)
    (folder := tmp_path / "front").mkdir()
    async with serving(backend, folder) as front, websocket(front, front.alice) as client:
        chat = Conversation(client)
        heard = await chat.sim('call add {"a":1}', tools=[ADD], store=True)
        for turn in range(3):
            [call] = [item.function_call for item in heard.response.output]
            assert json.loads(call.arguments) == {"a": 1}
            output = {"type": "function_call_output", "call_id": call.call_id, "output": str(turn)}
            ask = {"role": "user", "content": '#sim call add {"a":1}'}
            heard = await chat.ask(
                input=[output, ask], previous_response_id=heard.id, tools=[ADD], store=True
            )
            assert heard.kinds[-1] == "completed"
        heard = await chat.sim("history", previous_response_id=heard.id, tools=[ADD], store=True)
        assert heard.text == "12"
        assert heard.response.usage.input_tokens_details.cached_tokens > 0


async def test_a_failure_of_the_upstream_is_a_failed_response_and_the_lane_goes_on(
    upstream: Upstream, tmp_path: Path
) -> None:
    terms = Terms(transport="websocket", state="connection")
    backend = Responses(upstream.url, upstream.key, terms=terms)
    (folder := tmp_path / "front").mkdir()
    async with serving(backend, folder) as front, websocket(front, front.alice) as client:
        chat = Conversation(client)
        first = await chat.ask("one", store=False)
        await chat.send(input="#sim text 2 ; stall 60", previous_response_id=first.id, store=False)
        await chat.hear_until("output_text_delta")
        upstream.wire.pull()
        failed = await chat.hear()
        assert failed.kinds[-1] == "failed"
        assert failed.response.error.code == "server_error"
        assert (await chat.sim("history", store=False)).text == "1"
