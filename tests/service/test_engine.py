"""What the engine does for clients and models that behave badly."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
import structlog

from service.backends import Produced, Prompt, Text
from service.backends.simulator.backend import Simulator
from service.connection import Connection
from service.engine import EngineLimits
from service.errors import Ending, SessionError
from service.identity import Identity
from service.limits import TurnLimits
from tests.engines import engine_of
from turnwire import json_codec
from turnwire.delta import Event, to_message
from turnwire.v1 import events_pb2

IMPATIENT = EngineLimits(turn=TurnLimits(keepalive=0.01, stall=0.05))


class Reader:
    """A sink whose client reads only when the test says so."""

    def __init__(self) -> None:
        self.kinds: list[str | None] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self.waited = asyncio.Event()
        self.ended = asyncio.Event()

    def deliver(self, events: Sequence[Event]) -> None:
        self.kinds += [to_message(event).WhichOneof("kind") for event in events]
        if {"completed", "failed", "error"} & set(self.kinds):
            self.ended.set()

    @property
    def congested(self) -> bool:
        return not self.reads.is_set()

    async def drained(self) -> None:
        self.waited.set()
        await self.reads.wait()

    def end(self, error: SessionError) -> None:
        self.ended.set()


def ask(connection: Connection, text: str) -> None:
    frame = f'{{"type":"response.create","model":"simulator","input":"{text}"}}'
    connection.receive(json_codec.decode(events_pb2.ClientEvent, frame))


@pytest.mark.rule("LV-7")
async def test_a_client_that_is_behind_keeps_its_model_waiting_and_nothing_fails() -> None:
    reader = Reader()
    connection = engine_of(Simulator(), IMPATIENT).connect(Identity("t"), "test", reader)
    reader.reads.clear()
    ask(connection, "hello")
    async with asyncio.timeout(5):
        await reader.waited.wait()
        await asyncio.sleep(0.2)  # four times as long as a model may be silent
        assert reader.kinds == []
        reader.reads.set()
        await reader.ended.wait()
    assert reader.kinds[-1] == "completed"
    connection.close(Ending.GONE)


async def test_a_client_that_falls_behind_in_mid_turn_is_not_the_models_silence() -> None:
    reader = Reader()
    connection = engine_of(Simulator(), IMPATIENT).connect(Identity("t"), "test", reader)
    ask(connection, "#sim text 2 ; stall 0.01 ; text 2")
    async with asyncio.timeout(5):
        while "output_text_delta" not in reader.kinds:
            await asyncio.sleep(0)
        reader.reads.clear()
        await reader.waited.wait()
        await asyncio.sleep(0.2)
        reader.reads.set()
        await reader.ended.wait()
    assert reader.kinds[-1] == "completed"
    connection.close(Ending.GONE)


async def test_a_model_is_given_up_in_time_even_where_keepalives_are_rare() -> None:
    reader = Reader()
    limits = EngineLimits(turn=TurnLimits(keepalive=3600, stall=0.05))
    connection = engine_of(Simulator(), limits).connect(Identity("t"), "test", reader)
    ask(connection, "#sim stall 3600")
    async with asyncio.timeout(5):
        await reader.ended.wait()
    assert reader.kinds == ["created", "in_progress", "failed"]
    connection.close(Ending.GONE)


class Broken(Simulator):
    """A backend with a defect."""

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        yield [Text("so far so good")]
        raise KeyError("canary")


@pytest.mark.rule("ER-5")
async def test_a_defect_is_logged_once_and_fails_the_turn_without_detail() -> None:
    reader = Reader()
    connection = engine_of(Broken()).connect(Identity("t"), "test", reader)
    with structlog.testing.capture_logs() as logs:
        ask(connection, "hello")
        async with asyncio.timeout(5):
            await reader.ended.wait()
    assert reader.kinds[-1] == "failed"
    assert [line["event"] for line in logs] == ["turn_failed"]
    connection.close(Ending.GONE)


async def test_a_connection_that_is_closed_twice_is_closed_once() -> None:
    served = engine_of(Simulator())
    connection = served.connect(Identity("t"), "test", Reader())
    connection.close(Ending.GONE)
    connection.close(Ending.INTERNAL)
    open_now = served.metrics.registry.get_sample_value(
        "turnwire_connections_open", {"transport": "test"}
    )
    assert open_now == 0


async def test_what_a_closed_connection_still_receives_leads_to_nothing() -> None:
    reader = Reader()
    connection = engine_of(Simulator()).connect(Identity("t"), "test", reader)
    connection.close(Ending.GONE)
    ask(connection, "hello")
    await asyncio.sleep(0)
    assert reader.kinds == []
