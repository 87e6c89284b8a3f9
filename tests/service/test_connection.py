"""How connections come of age."""

import asyncio

import pytest

from service.backends.simulator.backend import Simulator
from service.connection import Connection, ConnectionLimits
from service.engine import EngineLimits
from service.errors import Ending, SessionError
from service.identity import Identity
from tests.conformance.clients import InProcess
from tests.conformance.conversation import WAIT, Conversation
from tests.conformance.gated import Gated
from tests.engines import engine_of

ABOUT_TO_RETIRE = ConnectionLimits(age=3600, retirement=3599.98)
"""Its age limit is an hour off: what ends it before is its retirement."""


class Client(InProcess):
    """Remembers why its connection ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()
        self.ending: Ending | None = None

    def end(self, error: SessionError) -> None:
        self.ending = error.ending
        self.ended.set()
        super().end(error)


def connected(model: Simulator) -> tuple[Connection, Client]:
    client = Client()
    limits = EngineLimits(connection=ABOUT_TO_RETIRE)
    client.connection = engine_of(model, limits).connect(Identity("alice"), "test", client)
    return client.connection, client


@pytest.mark.rule("LV-5")
async def test_an_old_connection_that_rests_goes_before_a_turn_can_meet_its_end() -> None:
    _, client = connected(Simulator())
    async with asyncio.timeout(WAIT):
        await client.ended.wait()
    assert client.ending is Ending.AGE
    told = await client.receive()
    assert told.error.error.code == "websocket_connection_limit_reached"


@pytest.mark.rule("LV-5")
async def test_an_old_connection_ends_its_turns_first() -> None:
    model = Gated()
    _, client = connected(model)
    chat = Conversation(client)
    await chat.send(input="#sim text 2 ; stall 0 ; text 2")
    await chat.hear_until("output_text_delta")
    await asyncio.sleep(0.05)  # it is old by now, and waits for the turn
    assert not client.ended.is_set()
    model.gate.set()
    assert (await chat.hear()).kinds[-1] == "completed"
    async with asyncio.timeout(WAIT):
        await client.ended.wait()
    assert client.ending is Ending.AGE
