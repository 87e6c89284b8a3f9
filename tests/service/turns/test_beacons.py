"""Two replicas in one process, which share what is stored and nothing else."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from prometheus_client import CollectorRegistry

from service.engine import Engine, EngineLimits, Policies
from service.errors import Conflict, NotFound
from service.identity import Identity
from service.metrics import Metrics
from service.paging import Page
from service.router import Router
from service.sealing import Seal
from tests.conformance.clients import InProcess
from tests.conformance.conversation import WAIT, Conversation, Heard
from tests.conformance.gated import Gated
from tests.engines import stores
from turnwire.delta import to_message

ALICE = Identity("alice")
HALF = "#sim text 3 ; stall 0 ; text 3"


class Replicas:
    """Two engines, each with a model of its own; everything is asked of the second one."""

    def __init__(self) -> None:
        self.clock = 0.0
        self.shared = stores(clock=lambda: time.monotonic() + self.clock)
        seal = Seal.ephemeral()
        self.models = Gated(), Gated()
        self.engines = [self._engine(model, seal) for model in self.models]

    def _engine(self, model: Gated, seal: Seal) -> Engine:
        metrics = Metrics(CollectorRegistry())
        return Engine(Router([model]), self.shared, metrics, EngineLimits(), Policies(seal=seal))

    def connect(self, engine: Engine) -> Conversation:
        client = InProcess()
        client.connection = engine.connect(ALICE, "test", client)
        return Conversation(client)

    async def begin(self, **members: object) -> tuple[Conversation, str]:
        """Begin a response on the first replica, and show it at once."""
        chat = self.connect(self.engines[0])
        await chat.send(input=HALF, **members)
        response_id = (await chat.hear_until("output_text_delta"))[0].created.response.id
        state = self.engines[0]._state
        run = state.live.get("alice", response_id)
        assert run
        await state.beacons.light(run)
        return chat, response_id


@pytest.fixture
async def replicas() -> AsyncIterator[Replicas]:
    made = Replicas()
    yield made
    for engine in made.engines:
        await engine.drain(0)


async def test_a_response_that_another_replica_makes_is_shown_as_it_began(
    replicas: Replicas,
) -> None:
    _, response_id = await replicas.begin()
    response = await replicas.engines[1].responses.get("alice", response_id)
    assert (response.id, response.status, len(response.output)) == (response_id, "in_progress", 0)
    with pytest.raises(Conflict, match="another replica"):
        await replicas.engines[1].responses.input_items("alice", response_id, Page())


async def test_nobody_else_sees_it(replicas: Replicas) -> None:
    _, response_id = await replicas.begin()
    with pytest.raises(NotFound):
        await replicas.engines[1].responses.get("bob", response_id)


async def test_its_events_are_told_once_it_has_ended(replicas: Replicas) -> None:
    chat, response_id = await replicas.begin()
    batches = await replicas.engines[1].responses.follow("alice", response_id, 3)
    replicas.models[0].gate.set()
    heard = Heard(await chat.hear())
    async with asyncio.timeout(WAIT), aclosing(batches):
        told = [to_message(event) async for batch in batches for event in batch]
    assert [event.sequence_number for event in told] == list(range(4, 4 + len(told)))
    assert told[-1] == heard[-1]


async def test_it_can_be_cancelled_on_another_replica(replicas: Replicas) -> None:
    _, response_id = await replicas.begin()
    async with asyncio.timeout(WAIT):
        response = await replicas.engines[1].responses.cancel("alice", response_id)
    assert response.status == "cancelled"
    assert replicas.models[0].cancelled == 1


async def test_it_can_be_deleted_on_another_replica(replicas: Replicas) -> None:
    _, response_id = await replicas.begin()
    async with asyncio.timeout(WAIT):
        await replicas.engines[1].responses.delete("alice", response_id)
    for engine in replicas.engines:
        with pytest.raises(NotFound):
            await engine.responses.get("alice", response_id)


async def test_the_same_create_on_another_replica_waits_for_the_first(replicas: Replicas) -> None:
    chat, response_id = await replicas.begin(idempotency_key="once")
    other = replicas.connect(replicas.engines[1])
    await other.send(input=HALF, idempotency_key="once")
    replicas.models[0].gate.set()
    await chat.hear()
    assert (await other.hear()).id == response_id
    assert replicas.models[1].begun == 0


async def test_two_same_creates_at_once_make_one_response(replicas: Replicas) -> None:
    chats = [replicas.connect(engine) for engine in replicas.engines for _ in range(4)]
    for model in replicas.models:
        model.gate.set()
    await asyncio.gather(*(chat.send(input="Hello.", idempotency_key="once") for chat in chats))
    heard = await asyncio.gather(*(chat.hear() for chat in chats))
    assert len({turn.id for turn in heard}) == 1
    assert sum(model.begun for model in replicas.models) == 1


async def test_what_a_dead_replica_made_is_made_again(replicas: Replicas) -> None:
    _, response_id = await replicas.begin(idempotency_key="once")
    replicas.engines[0]._watching.cancel()  # it is dead: nobody lights its light again
    replicas.clock += 60
    with pytest.raises(NotFound):
        await replicas.engines[1].responses.get("alice", response_id)
    replicas.models[1].gate.set()
    again = await replicas.connect(replicas.engines[1]).ask(HALF, idempotency_key="once")
    assert again.kinds[-1] == "completed"
    assert again.id != response_id


async def test_what_takes_long_is_shown_by_itself(replicas: Replicas) -> None:
    chat = replicas.connect(replicas.engines[0])
    await chat.send(input=HALF)
    response_id = (await chat.hear_until("output_text_delta"))[0].created.response.id
    async with asyncio.timeout(WAIT):
        while not await replicas.engines[1]._state.beacons.seen("alice", response_id):
            await asyncio.sleep(0.05)


async def test_a_response_that_has_ended_has_no_light(replicas: Replicas) -> None:
    chat, response_id = await replicas.begin()
    replicas.models[0].gate.set()
    await chat.hear()
    async with asyncio.timeout(WAIT):
        while await replicas.engines[1]._state.beacons.seen("alice", response_id):
            await asyncio.sleep(0.01)
