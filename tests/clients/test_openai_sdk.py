"""The `openai` SDK over its WebSocket connection."""

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.lib.responses_websocket import (
    AsyncResponsesWebSocketLane,
    AsyncResponsesWebSocketSession,
    ResponsesWebSocketError,
    ResponsesWebSocketLimits,
)
from openai.resources.responses.responses import AsyncResponsesConnection
from openai.types.responses import Response, ResponsesServerEvent
from openai.types.responses.responses_client_event import ResponseCreate

from service.backends.simulator.backend import Simulator
from tests.clients.conftest import TURNS
from tests.conformance.gated import Gated
from tests.conformance.server import Server, serving

LANES = 16
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


@pytest.fixture
async def simulated(tmp_path: Path) -> AsyncIterator[AsyncOpenAI]:
    async with talking_to(Simulator(), tmp_path) as client:
        yield client


@asynccontextmanager
async def talking_to(model: Simulator, folder: Path) -> AsyncIterator[AsyncOpenAI]:
    async with serving(model, folder) as server:
        base = server.websocket_url.replace("ws://", "http://").removesuffix("/responses")
        async with AsyncOpenAI(api_key=server.alice, base_url=base) as client:
            yield client


async def until(connection: AsyncResponsesConnection, kind: str) -> list[ResponsesServerEvent]:
    """Return what comes, up to the first event of a kind."""
    events: list[ResponsesServerEvent] = []
    while not events or events[-1].type != kind:
        events.append(await connection.recv())
    return events


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


@pytest.mark.rule("EV-15")
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


@asynccontextmanager
async def lanes_of(client: AsyncOpenAI) -> AsyncIterator[AsyncResponsesWebSocketSession]:
    limits = ResponsesWebSocketLimits(
        max_lanes=2 * LANES,
        max_events_per_lane=256,
        max_events=4096,
        max_bytes_per_lane=1 << 20,
        max_bytes=1 << 24,
    )
    async with (
        client.responses.connect(websocket_connection_options={"max_size": None}) as connection,
        AsyncResponsesWebSocketSession(connection, limits=limits) as session,
    ):
        yield session


async def ask(lane: AsyncResponsesWebSocketLane, text: str, **create: Any) -> Response:
    event = ResponseCreate(type="response.create", model="simulator", input=text, **create)
    await lane.send(event)
    async with asyncio.timeout(10):
        return await lane.get_final_response()


@pytest.mark.rule("LN-2")
async def test_sixteen_lanes_of_the_sdks_session_run_side_by_side(simulated: AsyncOpenAI) -> None:
    async with lanes_of(simulated) as session:
        lanes = [session.lane(f"lane-{number}") for number in range(LANES)]
        words = range(1, LANES + 1)
        asking = (ask(lane, f"#sim text {count}") for lane, count in zip(lanes, words, strict=True))
        responses = await asyncio.gather(*asking)
    assert [len(response.output_text.split()) for response in responses] == list(words)
    assert {response.status for response in responses} == {"completed"}
    assert len({response.id for response in responses}) == LANES


async def test_fifteen_lanes_fork_from_one_while_it_goes_on(simulated: AsyncOpenAI) -> None:
    async with lanes_of(simulated) as session:
        source, *others = (session.lane(f"lane-{number}") for number in range(LANES))
        root = await ask(source, "#sim text 3", store=False)
        following = {"store": False, "previous_response_id": root.id}
        forks = await asyncio.gather(
            *(ask(lane, f"fork {number}", **following) for number, lane in enumerate(others)),
            ask(source, "onward", **following),
        )
    assert {fork.previous_response_id for fork in forks} == {root.id}
    said = [fork.output_text for fork in forks]
    assert said == [*(f"fork {number}" for number in range(LANES - 1)), "onward"]


@pytest.mark.rule("LN-8")
async def test_a_lane_that_fails_leaves_the_others_alone(simulated: AsyncOpenAI) -> None:
    async with lanes_of(simulated) as session:
        good, bad = session.lane("good"), session.lane("bad")
        root = await ask(good, "#sim text 1", store=False)
        with pytest.raises(ResponsesWebSocketError) as error:
            await ask(bad, "hi", previous_response_id="resp_0")
        assert error.value.event.stream_id == "bad"
        assert (await ask(bad, "hi", previous_response_id=root.id)).output_text == "hi"
        assert (await ask(good, "ho", previous_response_id=root.id)).output_text == "ho"


@pytest.mark.rule("ST-1", "ST-2", "ST-3")
async def test_a_response_is_steered_and_its_successor_follows(tmp_path: Path) -> None:
    model = Gated()
    async with (
        talking_to(model, tmp_path) as client,
        client.responses.connect() as connection,
        asyncio.timeout(10),
    ):
        await connection.response.create(model="simulator", input="#sim text 2 ; stall 0 ; text 2")
        opening = await until(connection, "response.output_text.delta")
        steered = opening[0].response.id  # type: ignore[union-attr]
        await connection.response.steer(previous_response_id=steered, input="#sim text 3")
        [*_, accepted] = await until(connection, "response.steer.accepted")
        model.gate.set()
        [*_, incomplete] = await until(connection, "response.incomplete")
        [created, *_, completed] = await until(connection, "response.completed")
    assert accepted.type == "response.steer.accepted"
    assert accepted.steer.previous_response_id == steered
    assert incomplete.type == "response.incomplete"
    assert incomplete.response.incomplete_details
    assert incomplete.response.incomplete_details.reason == "steered"
    assert incomplete.response.output_text == "every turn"
    assert created.type == "response.created"
    assert created.response.previous_response_id == steered
    assert completed.type == "response.completed"
    assert completed.response.output_text == "every turn carries"


@pytest.mark.rule("ST-5")
async def test_a_response_that_has_ended_cannot_be_steered(simulated: AsyncOpenAI) -> None:
    async with simulated.responses.connect() as connection, asyncio.timeout(10):
        [*_, completed] = await turn(connection, input="hi")
        assert completed.type == "response.completed"
        await connection.response.steer(previous_response_id=completed.response.id, input="ho")
        [failed] = await until(connection, "response.steer.failed")
        assert failed.type == "response.steer.failed"
        assert failed.error.code == "response_already_completed"
        assert failed.steer.input == "ho"
        [*_, completed] = await turn(connection, input="hi again")
        assert completed.type == "response.completed"


async def test_an_unknown_previous_response_is_an_error_the_sdk_reads(client: AsyncOpenAI) -> None:
    async with client.responses.connect() as connection:
        [error] = await turn(connection, input="go", previous_response_id="resp_0")
    assert error.type == "error"
    assert error.error.code == "previous_response_not_found"
    assert error.status == 400
