"""Lanes, order, silence, departures: what connections do (docs/protocol.md, "Lanes and state")."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.backends.simulator.backend import Simulator, Speed
from service.connection import ConnectionLimits
from service.engine import EngineLimits
from service.errors import Ending
from service.limits import TurnLimits
from service.session import SessionLimits
from tests.conformance.clients import Connect, Ended
from tests.conformance.conftest import Talk
from tests.conformance.conversation import WAIT, Conversation
from tests.conformance.server import Server, serving


async def quiet(simulator: Simulator) -> None:
    async with asyncio.timeout(WAIT):
        while simulator.running:
            await asyncio.sleep(0)


@pytest.mark.rule("LN-1", "LN-3", "EV-2")
@pytest.mark.connection
async def test_turns_of_the_default_lane_follow_each_other(talk: Talk) -> None:
    async with talk() as chat:
        for number in range(5):
            await chat.send(input=f"number {number}")
        answers = [await chat.hear() for _ in range(5)]
    assert [heard.text for heard in answers] == [f"number {number}" for number in range(5)]
    assert not any(event.HasField("stream_id") for heard in answers for event in heard)


@pytest.mark.rule("LN-2", "EV-1")
@pytest.mark.connection
async def test_lanes_run_side_by_side_and_keep_their_own_numbers(talk: Talk) -> None:
    lanes = [f"lane-{number}" for number in range(16)]
    async with talk() as chat:
        for lane in lanes:
            await chat.send(input=f"#sim text 5 ; call f {{}} ; text {len(lane)}", stream_id=lane)
        heard = await chat.hear_lanes(lanes)
    for turn in heard.values():
        assert [event.sequence_number for event in turn] == list(range(len(turn)))
        assert turn.kinds[-1] == "completed"


@pytest.mark.rule("LN-2", "EV-2")
@pytest.mark.connection
async def test_a_lane_that_is_stuck_holds_up_no_other(talk: Talk) -> None:
    async with talk() as chat:
        await chat.send(input="#sim text 1 ; stall 3600", stream_id="stuck")
        await chat.hear_until("output_text_delta")
        await chat.send(input="hello", stream_id="free")
        heard = await chat.hear()
    assert {event.stream_id for event in heard} == {"free"}
    assert heard.text == "hello"


@pytest.mark.rule("ER-2")
@pytest.mark.connection
async def test_a_refusal_goes_to_the_lane_that_asked(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.ask(stream_id="a", model="gpt-0")
        assert heard[0].stream_id == "a"


@pytest.mark.rule("LN-7", "ER-2")
@pytest.mark.connection
async def test_a_lane_with_a_bad_name_is_refused_without_one(talk: Talk) -> None:
    async with talk() as chat:
        heard = await chat.ask(stream_id="not good")
        assert heard.error.error.code == "invalid_stream_id"
        assert not heard[0].HasField("stream_id")


@pytest.mark.rule("LN-6")
@pytest.mark.connection
async def test_one_lane_too_many_is_refused(talk: Talk) -> None:
    async with talk() as chat:
        for number in range(32):
            assert (await chat.ask(stream_id=str(number))).kinds[-1] == "completed"
        heard = await chat.ask(stream_id="32")
        assert heard.error.error.code == "websocket_stream_limit_reached"
        assert heard[0].stream_id == "32"
        assert (await chat.ask()).kinds[-1] == "completed"


@pytest.mark.rule("SS-10", "CX-4")
async def test_a_client_that_vanishes_stops_its_model(
    talk: Talk, server: Server, simulator: Simulator
) -> None:
    async with talk() as chat:
        await chat.send(input="#sim text 3 ; stall 3600", store=False)
        await chat.hear_until("output_text_delta")
        assert simulator.running == 1
        await chat.client.vanish()
        await quiet(simulator)
    assert simulator.cancelled == 1
    transports = ("in-process", "websocket", "grpc", "http")
    cancelled = [
        server.sample("turnwire_turns_total", transport=name, outcome="cancelled")
        for name in transports
    ]
    aborted = [
        server.sample("turnwire_turn_abort_seconds_count", transport=name) for name in transports
    ]
    inflight = [server.sample("turnwire_turns_inflight", transport=name) for name in transports]
    assert (sum(cancelled), sum(aborted), sum(inflight)) == (1, 1, 0)


@pytest.mark.rule("SS-10")
@pytest.mark.connection
async def test_a_client_that_vanishes_takes_its_waiting_turns_along(
    talk: Talk, simulator: Simulator
) -> None:
    async with talk() as chat:
        await chat.send(input="#sim text 1 ; stall 3600", store=False)
        await chat.send(input="#sim text 1 ; stall 3600", store=False)
        await chat.hear_until("output_text_delta")
        await chat.client.vanish()
        await quiet(simulator)
    assert simulator.cancelled == 1


@pytest.mark.rule("SS-10")
@pytest.mark.connection
async def test_a_client_that_vanishes_stops_a_turn_that_had_waited(
    talk: Talk, simulator: Simulator
) -> None:
    async with talk() as chat:
        await chat.send(input="first")
        await chat.send(input="#sim text 1 ; stall 3600", store=False)
        assert (await chat.hear()).text == "first"
        await chat.hear_until("output_text_delta")
        await chat.client.vanish()
        await quiet(simulator)
    assert simulator.cancelled == 1


@pytest.mark.rule("LV-6")
@pytest.mark.connection
async def test_draining_lets_turns_finish_and_then_says_goodbye(
    tmp_path: Path, connect: Connect
) -> None:
    simulator = Simulator(speed=Speed(tokens_per_second=200.0))
    async with serving(simulator, tmp_path) as server, connect(server, server.alice) as client:
        chat = Conversation(client)
        await chat.send(input="#sim text 20")
        await chat.hear_until("output_text_delta")
        draining = asyncio.create_task(server.engine.drain(WAIT))
        heard = await chat.hear()
        assert heard.kinds[-1] == "completed"
        goodbye = await chat.receive()
        assert goodbye.error.error.code == "websocket_connection_limit_reached"
        with pytest.raises(Ended) as ended:
            await chat.receive()
        assert Ending.DRAIN in ended.value.endings
        await draining


@pytest.mark.rule("LV-6")
@pytest.mark.connection
async def test_draining_at_once_ends_even_what_has_not_begun(
    server: Server, connect: Connect
) -> None:
    async with connect(server, server.alice) as client:
        chat = Conversation(client)
        await chat.ask()
        await chat.send(input="hello")
        async with asyncio.timeout(WAIT):
            await server.engine.drain(0)
        with pytest.raises(Ended) as ended:
            await chat.hear_until("nothing")
        assert Ending.DRAIN in ended.value.endings


@pytest.mark.rule("LV-6")
@pytest.mark.connection
async def test_draining_cuts_what_takes_too_long_and_tells_its_client(
    tmp_path: Path, connect: Connect
) -> None:
    simulator = Simulator()
    async with serving(simulator, tmp_path) as server, connect(server, server.alice) as client:
        chat = Conversation(client)
        await chat.send(input="#sim text 1 ; stall 3600")
        await chat.hear_until("output_text_delta")
        await server.engine.drain(0)
        heard = await chat.hear()
        assert heard.kinds[-1] == "failed"
        with pytest.raises(Ended):
            await chat.hear_until("nothing")
        assert simulator.running == 0


@pytest.fixture
async def impatient(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Server]:
    limits = EngineLimits(
        turn=TurnLimits(keepalive=0.02, stall=0.2),
        connection=ConnectionLimits(session=SessionLimits(waiting=1), age=1.0, retirement=0.0),
    )
    async with serving(simulator, tmp_path, limits) as started:
        yield started


@pytest.mark.rule("LV-1", "LV-2")
@pytest.mark.connection
async def test_a_silent_model_keeps_its_client_informed_and_fails_in_the_end(
    impatient: Server, connect: Connect
) -> None:
    async with connect(impatient, impatient.alice) as client:
        heard = await Conversation(client).sim("text 1 ; stall 3600")
    assert heard.kinds.count("keepalive") >= 2
    assert heard.kinds[-1] == "failed"
    numbered = [event.sequence_number for event in heard if not event.HasField("keepalive")]
    assert numbered == list(range(len(numbered)))


@pytest.mark.rule("LV-1", "LV-2")
@pytest.mark.connection
async def test_a_warm_up_that_hangs_keeps_its_client_informed_and_fails_in_the_end(
    tmp_path: Path, connect: Connect
) -> None:
    limits = EngineLimits(turn=TurnLimits(keepalive=0.02, stall=0.2))
    slow = Simulator(speed=Speed(prefill=60.0))
    async with serving(slow, tmp_path, limits) as server, connect(server, server.alice) as client:
        heard = await Conversation(client).ask("hello", generate=False)
    assert heard.kinds[0] == "created"
    assert heard.kinds.count("keepalive") >= 2
    assert heard.kinds[-1] == "failed"


@pytest.mark.rule("LN-5")
@pytest.mark.connection
async def test_more_waiting_turns_than_allowed_are_refused(
    impatient: Server, connect: Connect
) -> None:
    async with connect(impatient, impatient.alice) as client:
        chat = Conversation(client)
        for _ in range(3):
            await chat.send(input="#sim stall 3600", stream_id="a")
        heard = await chat.hear_until("error")
    assert heard.error.error.code == "rate_limit_exceeded"
    assert heard.error.status == 429


@pytest.mark.rule("LV-5")
@pytest.mark.connection
async def test_an_old_connection_is_told_to_reconnect(impatient: Server, connect: Connect) -> None:
    async with connect(impatient, impatient.alice) as client:
        chat = Conversation(client)
        goodbye = await chat.receive()
        assert goodbye.error.error.code == "websocket_connection_limit_reached"
        with pytest.raises(Ended) as ended:
            await chat.receive()
        assert Ending.AGE in ended.value.endings
