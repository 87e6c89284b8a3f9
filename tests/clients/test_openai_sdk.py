"""The `openai` SDK over its WebSocket connection."""

import asyncio
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.lib.responses_websocket import (
    AsyncResponsesWebSocketSession,
    ResponsesWebSocketLimits,
)
from openai.resources.responses.responses import AsyncResponsesConnection
from openai.types.responses import Response, ResponsesServerEvent

from tests.clients.conftest import TURNS
from tests.conformance.server import Server

LOOK = {
    "type": "function",
    "name": "look",
    "description": "Look around.",
    "parameters": {"type": "object", "properties": {"step": {"type": "integer"}}},
    "strict": False,
}


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncOpenAI]:
    base = server.websocket_url.replace("ws://", "http://").removesuffix("/responses")
    async with AsyncOpenAI(api_key=server.alice, base_url=base) as client:
        yield client


async def turn(connection: AsyncResponsesConnection, **create: Any) -> list[ResponsesServerEvent]:
    events = []
    await connection.response.create(model="simulator", **create)
    async with asyncio.timeout(10):
        async for event in connection:
            events.append(event)
            if event.type in {"response.completed", "response.failed", "error"}:
                break
    return events


async def test_a_tool_conversation_of_twenty_turns(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        events = await turn(connection, input="go", tools=[LOOK], store=False)
        for _ in range(TURNS - 1):
            response: Response = events[-1].response  # type: ignore[union-attr]
            [call] = response.output
            assert call.type == "function_call"
            output = {"type": "function_call_output", "call_id": call.call_id, "output": "a door"}
            events = await turn(
                connection,
                input=[output],
                tools=[LOOK],
                store=False,
                previous_response_id=response.id,
            )
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "every turn carries only what"
    assert events[-1].response.usage
    assert events[-1].response.usage.input_tokens_details.cached_tokens > 0


async def test_every_event_is_what_the_sdk_says_it_is(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        events = await turn(connection, input="go", metadata={"a": "b"}, tools=[LOOK])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for event in events:
            validated = type(event).model_validate(
                event.model_dump(by_alias=True, warnings="error")
            )
            assert validated.type == event.type


async def test_lanes_of_the_sdks_session_run_side_by_side(client: AsyncOpenAI) -> None:
    limits = ResponsesWebSocketLimits(
        max_lanes=8,
        max_events_per_lane=128,
        max_events=512,
        max_bytes_per_lane=1 << 20,
        max_bytes=1 << 23,
    )
    async with (
        client.responses.connect(websocket_connection_options={"max_size": None}) as connection,
        AsyncResponsesWebSocketSession(connection, limits=limits) as session,
    ):
        lanes = [session.lane(name) for name in ("one", "two", "three")]
        for lane in lanes:
            await lane.send(
                {"type": "response.create", "model": "simulator", "input": "go", "tools": []}
            )
        async with asyncio.timeout(10):
            responses = [await lane.get_final_response() for lane in lanes]
    assert {response.status for response in responses} == {"completed"}
    assert len({response.id for response in responses}) == 3


async def test_an_unknown_previous_response_is_an_error_the_sdk_reads(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        [error] = await turn(connection, input="go", previous_response_id="resp_0")
    assert error.type == "error"
    assert error.error.code == "previous_response_not_found"
    assert error.status == 400
