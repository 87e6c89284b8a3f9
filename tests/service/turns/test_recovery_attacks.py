"""Clients that leave at the worst moment, ask for what cannot be told, or meet a store that is away."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from service.backends.simulator.backend import Simulator, Speed
from service.connection import ConnectionLimits
from service.conversation import DurableNode
from service.engine import Engine, EngineLimits, Policies
from service.errors import Ending
from service.identity import Credentials, Identity
from service.metrics import Metrics
from service.router import Router
from service.store import Cell, CellName, Store, StoreUnavailable
from service.store.memory import MemoryCells
from tests.conformance.clients import InProcess
from tests.conformance.conversation import WAIT, Conversation
from tests.conformance.gated import Gated
from tests.engines import engine_of, stores
from turnwire import json_codec
from turnwire.v1 import events_pb2

ALICE = Identity("alice")
HALF = "#sim text 3 ; stall 0 ; text 3"
_CLIENTS, _TOGETHER = 600, 50


def connect(engine: Engine) -> InProcess:
    client = InProcess()
    client.connection = engine.connect(ALICE, "test", client)
    return client


def create(**members: object) -> events_pb2.ClientEvent:
    frame = json.dumps({"type": "response.create", "model": "simulator", **members})
    return json_codec.decode(events_pb2.ClientEvent, frame)


async def resume(client: InProcess, response_id: str, **members: int | str) -> None:
    frame = json.dumps({"type": "response.resume", "response_id": response_id, **members})
    await client.send(json_codec.decode(events_pb2.ClientEvent, frame))


async def until_quiet(engine: Engine) -> None:
    """Wait until nothing of any client is left."""
    async with asyncio.timeout(WAIT):
        await engine._census.empty()
        while engine.metrics.registry.get_sample_value("turnwire_detached_turns"):
            await asyncio.sleep(0.01)


def expect_nothing_left(engine: Engine) -> None:
    state = engine._state
    assert (len(engine._census.all), engine._census.unattended("alice")) == (0, 0)
    assert (len(state.live.runs), len(state.beacons._lights), len(engine._expelled)) == (0, 0, 0)
    assert engine.tenants.of("alice")._open == 0
    for name in ("turnwire_turns_inflight", "turnwire_connections_open"):
        labels = {"transport": "test"}
        assert engine.metrics.registry.get_sample_value(name, labels) == 0


class Door:
    """Lets everybody in, until a test closes it."""

    anonymous = False

    def __init__(self) -> None:
        self.open = True

    def identify(self, credentials: Credentials) -> Identity:
        raise AssertionError("nobody asks")

    def holds(self, identity: Identity) -> bool:
        return self.open


class Shaky(MemoryCells):
    """Cells that a test takes away; lights and claims one by one."""

    def __init__(self) -> None:
        super().__init__(time.monotonic)
        self.away: set[str] = set()

    def _check(self, name: CellName) -> None:
        if name.kind in self.away:
            raise StoreUnavailable

    async def read(self, name: CellName) -> Cell | None:
        self._check(name)
        return await super().read(name)

    async def write(self, name: CellName, cell: Cell, ttl: float) -> bool:
        self._check(name)
        return await super().write(name, cell, ttl)

    async def drop(self, name: CellName) -> bool:
        self._check(name)
        return await super().drop(name)


class Slow:
    """A store that keeps nothing until a test lets it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.asked, self.does = asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    async def put(self, node: DurableNode) -> DurableNode:
        self.asked.set()
        await self.does.wait()
        return await self._store.put(node)


class Shared:
    """Two engines over one store whose cells may be away."""

    def __init__(self) -> None:
        self.cells = Shaky()
        self.models = Gated(), Gated()
        shared, policies = replace(stores(), cells=self.cells), Policies()
        self.here, self.there = (
            Engine(Router([model]), shared, Metrics(CollectorRegistry()), EngineLimits(), policies)
            for model in self.models
        )


@pytest.fixture
async def shared() -> AsyncIterator[Shared]:
    made = Shared()
    yield made
    made.cells.away.clear()
    await asyncio.gather(made.here.drain(0), made.there.drain(0))


async def test_a_client_that_asks_and_leaves_at_once_leaves_nothing_behind() -> None:
    engine = engine_of(Simulator())
    client = connect(engine)
    client.connection.receive(create(input="hello"))
    client.connection.close(Ending.GONE)
    await until_quiet(engine)
    expect_nothing_left(engine)


async def test_a_turn_that_was_cut_before_it_began_leaves_nothing_behind() -> None:
    engine = engine_of(Simulator())
    connect(engine).connection.receive(create(input="hello"))
    await engine.drain(0)
    await until_quiet(engine)
    expect_nothing_left(engine)


async def test_a_turn_that_never_began_does_not_keep_the_place_of_one_that_went_on() -> None:
    model = Gated()
    engine = engine_of(model)
    chat = Conversation(client := connect(engine))
    await chat.send(input=HALF, stream_id="on")
    await chat.hear_until("output_text_delta")
    client.connection.receive(create(input="hello", stream_id="off"))
    client.connection.close(Ending.GONE)
    assert engine._census.unattended("alice") == 1
    model.gate.set()
    await until_quiet(engine)
    expect_nothing_left(engine)


async def test_clients_that_come_and_go_at_any_moment_leave_nothing_behind() -> None:
    dice = random.Random(5)
    speed = Speed(first_token=0.001, tokens_per_second=2000)
    limits = EngineLimits(connection=ConnectionLimits(grace=0.1), background=20)
    engine = engine_of(Simulator(speed=speed), limits)

    async def come_and_go() -> None:
        client = connect(engine)
        for _ in range(dice.randint(1, 4)):
            keyed = {"idempotency_key": f"{dice.randint(0, 50)}"} if dice.random() < 0.3 else {}
            text, lane = f"#sim text {dice.randint(1, 40)}", f"lane-{dice.randint(0, 2)}"
            event = create(input=text, stream_id=lane, store=dice.random() < 0.7, **keyed)
            client.connection.receive(event)
        if dice.random() < 0.1:
            client.connection.leave(Ending.DRAIN, "Bye.")
        for _ in range(dice.choice((0, 0, 1, 2, 5, 40))):
            await asyncio.sleep(0)
        client.connection.close(Ending.GONE)
        client.connection.close(Ending.DRAIN)

    for _ in range(_CLIENTS // _TOGETHER):
        await asyncio.gather(*(come_and_go() for _ in range(_TOGETHER)))
        assert 0 <= engine._census.unattended("alice") <= limits.background
    await until_quiet(engine)
    expect_nothing_left(engine)


async def test_one_client_cannot_leave_more_behind_than_its_tenant_may() -> None:
    model = Gated()
    engine = engine_of(model, EngineLimits(background=2))
    chat = Conversation(client := connect(engine))
    lanes = [f"lane-{number}" for number in range(5)]
    for lane in lanes:
        await chat.send(input=HALF, stream_id=lane)
    async with asyncio.timeout(WAIT):
        while model.begun < len(lanes):
            await chat.receive()
    client.connection.close(Ending.GONE)
    assert engine._census.unattended("alice") == 2
    model.gate.set()
    await until_quiet(engine)
    expect_nothing_left(engine)


async def test_a_credential_that_is_revoked_ends_what_goes_on_without_its_client() -> None:
    door = Door()
    engine = engine_of(Gated(), policies=Policies(identities=door))
    chat = Conversation(client := connect(engine))
    await chat.send(input=HALF)
    response_id = (await chat.hear_until("output_text_delta"))[0].created.response.id
    client.connection.close(Ending.GONE)
    door.open = False
    await until_quiet(engine)
    expect_nothing_left(engine)
    response = await engine.responses.get("alice", response_id)
    assert (response.status, response.error.code) == ("failed", "invalid_api_key")


@pytest.mark.parametrize("after", [18, 10**6, 2**31 - 1])
async def test_a_resume_from_beyond_the_end_is_refused_and_its_lane_goes_on(after: int) -> None:
    model = Gated()
    engine = engine_of(model)
    chat, other = Conversation(connect(engine)), Conversation(client := connect(engine))
    await chat.send(input=HALF)
    response_id = (await chat.hear_until("output_text_delta"))[0].created.response.id
    await resume(client, response_id, starting_after=after)
    await asyncio.sleep(0)
    model.gate.set()
    assert (await chat.hear())[-1].sequence_number == 18
    for _ in range(2):
        refused = (await other.hear())[-1].error
        assert (refused.status, refused.error.param) == (400, "starting_after")
        await resume(client, response_id, starting_after=after)
    await other.hear()
    following = await other.ask("Go on.", previous_response_id=response_id)
    assert following.kinds[-1] == "completed"


async def test_a_resume_ahead_of_a_running_response_hears_what_comes_after() -> None:
    model = Gated()
    engine = engine_of(model)
    chat, other = Conversation(connect(engine)), Conversation(client := connect(engine))
    await chat.send(input=HALF)
    response_id = (await chat.hear_until("output_text_delta"))[0].created.response.id
    await resume(client, response_id, starting_after=12)
    await asyncio.sleep(0)
    model.gate.set()
    assert [event.sequence_number for event in await other.hear()] == [13, 14, 15, 16, 17, 18]


async def test_a_response_is_resumed_on_other_lanes_of_the_connection_that_makes_it() -> None:
    model = Gated()
    chat = Conversation(client := connect(engine_of(model)))
    await chat.send(input=HALF, stream_id="first")
    response_id = (await chat.hear_until("output_text_delta"))[0].created.response.id
    lanes = [f"lane-{number}" for number in range(10)]
    for lane in lanes:
        await resume(client, response_id, stream_id=lane)
    model.gate.set()
    heard = await chat.hear_lanes(["first", *lanes])
    assert {heard[lane].id for lane in lanes} == {response_id}
    assert {heard[lane].kinds[-1] for lane in lanes} == {"completed"}


async def test_a_store_that_goes_away_while_another_replica_is_waited_for_ends_the_wait(
    shared: Shared,
) -> None:
    chat, other = Conversation(connect(shared.here)), Conversation(client := connect(shared.there))
    await chat.send(input=HALF, idempotency_key="once")
    response_id = (await chat.hear_until("output_text_delta"))[0].created.response.id
    await resume(client, response_id)
    await asyncio.sleep(0)
    shared.cells.away.add("live")
    assert (await other.hear())[-1].error.error.code == "store_unavailable"
    shared.models[1].gate.set()
    assert (await other.ask("hello", store=False)).kinds[-1] == "completed"


async def test_a_turn_survives_that_its_light_can_not_be_tended(shared: Shared) -> None:
    chat = Conversation(connect(shared.here))
    await chat.send(input=HALF, idempotency_key="once")
    await chat.hear_until("output_text_delta")
    shared.cells.away.update({"live", "claim"})
    shared.here._state.beacons.tend(shared.here._state.live.runs)
    shared.models[0].gate.set()
    assert (await chat.hear()).kinds[-1] == "completed"
    assert (await chat.ask("hello")).kinds[-1] == "completed"


@pytest.mark.parametrize("away", ["live", "claim"])
async def test_a_create_whose_key_cannot_be_kept_leaves_no_light_and_can_be_sent_again(
    shared: Shared, away: str
) -> None:
    chat, other = Conversation(connect(shared.here)), Conversation(connect(shared.there))
    shared.cells.away.add(away)
    refused = await chat.ask("hello", idempotency_key="once")
    assert refused[-1].error.error.code == "store_unavailable"
    assert not shared.here._state.beacons._lights
    shared.cells.away.clear()
    shared.models[1].gate.set()
    assert (await other.ask("hello", idempotency_key="once")).kinds[-1] == "completed"


async def test_a_response_has_not_ended_before_it_is_kept() -> None:
    memory = stores()
    store = Slow(memory.responses)
    slow = replace(memory, responses=cast("Store", store))
    metrics = Metrics(CollectorRegistry())
    engine = Engine(Router([Simulator()]), slow, metrics, EngineLimits(), Policies())
    chat = Conversation(connect(engine))
    await chat.send(input="hello")
    response_id = (await chat.hear_until("output_item_done"))[0].created.response.id
    async with asyncio.timeout(WAIT):
        await store.asked.wait()
    shown = await engine.responses.get("alice", response_id)
    assert (shown.status, shown.HasField("completed_at")) == ("in_progress", False)
    store.does.set()
    assert (await chat.hear()).kinds[-1] == "completed"
    assert (await engine.responses.get("alice", response_id)).status == "completed"


async def test_a_key_whose_create_was_refused_is_free_for_another(shared: Shared) -> None:
    chat = Conversation(connect(shared.here))
    shared.models[0].gate.set()
    for wrong in ({"previous_response_id": "resp_no"}, {"conversation": "conv_no"}):
        refused = await chat.ask("hello", idempotency_key="once", **wrong)
        assert refused.kinds == ["error"]
    assert (await chat.ask("other", idempotency_key="once")).kinds[-1] == "completed"


async def test_resumes_that_wait_weigh_what_they_weigh() -> None:
    chat = Conversation(client := connect(engine_of(Gated())))
    await chat.send(input=HALF)
    await chat.hear_until("output_text_delta")
    for _ in range(3):
        await resume(client, "x" * (30 << 20))
    refused = (await chat.hear_until("error"))[-1].error
    assert (refused.status, refused.error.code) == (429, "rate_limit_exceeded")
