"""Turns that are ended at every point where they can wait, by everyone who can end them."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from service.backends import Backend, CallText, Finished, Produced, Prompt, Text
from service.backends.simulator.backend import Simulator
from service.cache import Bounds, NodeCache, SegmentCache
from service.compaction import Compacted, Conversation
from service.connection import Connection, ConnectionLimits
from service.conversation import DurableNode, Renderings
from service.engine import Engine, EngineLimits, Policies
from service.errors import Ending, NotFound, SessionError
from service.identity import Identity
from service.metrics import Metrics
from service.moderation import Failure, Verdict
from service.router import Router
from service.store import Stores
from service.store.memory import MemoryCells, MemoryConversations, MemoryStore
from service.turns.live import Follower
from turnwire import json_codec
from turnwire.delta import Event, to_message
from turnwire.v1 import events_pb2, items_pb2

WAIT = 5.0
TERMINAL = {"completed", "failed", "incomplete", "error"}
TOO_LATE = {"interrupt_accepted", "steer_failed"}
SAID = "so far so good"
Told = list[events_pb2.ServerEvent]


class Gate:
    """Holds whoever first comes to one stage of a turn."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def at(self, stage: str) -> None:
        if stage == self._stage and not self.reached.is_set():
            self.reached.set()
            await self.opened.wait()


class Staged(Simulator):
    """A model that can be held before anything is prepared, and after its first batch."""

    def __init__(self, gate: Gate) -> None:
        super().__init__()
        self._gate = gate

    async def prepare(self, prompt: Prompt) -> Renderings:
        await self._gate.at("preparing")
        return await super().prepare(prompt)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        await self._gate.at("asking")
        async with aclosing(super().generate(prompt)) as batches:
            async for batch in batches:
                yield batch
                await self._gate.at("generating")


class Slow(MemoryStore):
    """A store that takes its time."""

    def __init__(self, cache: NodeCache, gate: Gate) -> None:
        super().__init__(cache)
        self._gate = gate

    async def get(self, tenant: str, response_id: str) -> DurableNode | None:
        await self._gate.at("looking")
        return await super().get(tenant, response_id)

    async def put(self, node: DurableNode) -> DurableNode:
        await self._gate.at("putting")
        return await super().put(node)


class Words:
    """Flags what has a word in it."""

    name, version = "words", "1"

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        await self._gate.at("screening")
        return [Verdict(self.name, {}, frozenset(), "bomb" in text) for text in texts]

    def close(self) -> None:
        """Hold nothing."""


class Short:
    """Compacts whatever it is given into one word."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def compact(self, backend: Backend, conversation: Conversation) -> Compacted:
        del backend, conversation
        await self._gate.at("compacting")
        message = items_pb2.Message(role="developer", content_text="short")
        return Compacted([items_pb2.Item(message=message)], None)


class World:
    """An engine whose turns are held at one stage, and its one client."""

    connection: Connection

    def __init__(self, stage: str, make: Callable[[Gate], Backend]) -> None:
        self.gate = Gate(stage)
        self.backend = make(self.gate)
        bounds = Bounds(budget=1 << 24)
        self.store = Slow(NodeCache(bounds, time.monotonic), self.gate)
        conversations = MemoryConversations(SegmentCache(bounds, time.monotonic))
        self.engine = Engine(
            Router([self.backend]),
            Stores(
                responses=self.store,
                conversations=conversations,
                cells=MemoryCells(time.monotonic),
            ),
            Metrics(CollectorRegistry()),
            EngineLimits(connection=ConnectionLimits(grace=0)),
            Policies(compactor=Short(self.gate), classifiers=[Words(self.gate)]),
        )
        self.told: Told = []
        self.news = asyncio.Event()
        self.endings: list[Ending] = []
        self._stage = stage

    def deliver(self, events: Sequence[Event]) -> None:
        self.told += map(to_message, events)
        self.news.set()

    @property
    def congested(self) -> bool:
        behind = self._stage == "behind" and any(e.HasField("output_item_done") for e in self.told)
        return (self._stage == "beginning" or behind) and not self.gate.opened.is_set()

    async def drained(self) -> None:
        await self.gate.at(self._stage)

    def end(self, error: SessionError) -> None:
        self.endings.append(error.ending)
        self.connection.close(error.ending)

    def send(self, **members: Any) -> None:
        frame = json.dumps({"type": "response.create", "model": "simulator", **members})
        self.connection.receive(json_codec.decode(events_pb2.ClientEvent, frame))

    async def hear(self, wanted: str, times: int = 1) -> Told:
        """Wait until an event of a kind was told so many times; return all that was told."""
        async with asyncio.timeout(WAIT):
            while sum(event.WhichOneof("kind") == wanted for event in self.told) < times:
                self.news.clear()
                await self.news.wait()
        return self.told

    async def reached(self) -> str:
        """Wait until the turn is held; return its response's id, if that exists."""
        async with asyncio.timeout(WAIT):
            await self.gate.reached.wait()
        return next((e.created.response.id for e in self.told if e.HasField("created")), "")

    async def rest(self) -> None:
        """Wait until nothing is under way."""
        async with asyncio.timeout(WAIT):
            await self.connection.finished()
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0)

    def turns(self) -> list[Told]:
        """Return what was told, response by response, refusals by themselves.

        Answers to what came too late for a response are not counted by it.
        """
        turns: list[Told] = []
        for event in self.told:
            if event.WhichOneof("kind") in TOO_LATE and event.sequence_number == 0:
                continue
            if not turns or turns[-1][-1].WhichOneof("kind") in TERMINAL:
                turns.append([])
            turns[-1].append(event)
        return turns

    async def again(self, response_id: str) -> Told:
        """Ask for a stored response's events."""
        batches = await self.engine.responses.follow("alice", response_id, None)
        return [to_message(event) async for batch in batches for event in batch]

    def assert_quiet(self) -> None:
        assert self.engine.responses._state.live._runs == {}
        assert isinstance(self.backend, Simulator)
        assert self.backend.running == 0


@asynccontextmanager
async def world(stage: str, make: Callable[[Gate], Backend] = Staged) -> AsyncIterator[World]:
    opened = World(stage, make)
    opened.connection = opened.engine.connect(Identity("alice"), "test", opened)
    try:
        yield opened
    finally:
        opened.gate.opened.set()
        opened.connection.close(Ending.GONE)
        await opened.engine.drain(0)
        await opened.rest()
        opened.assert_quiet()


BLOCKS = {"model": "words", "policy": {"input": {"mode": "block"}}}
REQUESTS: dict[str, dict[str, Any]] = {
    "looking": {"input": SAID, "previous_response_id": f"resp_{'0' * 32}"},
    "beginning": {"input": SAID},
    "preparing": {"input": SAID, "generate": False},
    "screening": {"input": SAID, "moderation": BLOCKS},
    "compacting": {"input": [{"role": "user", "content": SAID}, {"type": "compaction_trigger"}]},
    "asking": {"input": SAID},
    "generating": {"input": "#sim text 2 ; stall 0 ; text 2"},
    "behind": {"input": SAID},
    "putting": {"input": SAID},
}
"""A request that comes to each stage."""
WITH_ID = [stage for stage in REQUESTS if stage not in {"looking", "beginning"}]
BEFORE_ITS_END = [stage for stage in WITH_ID if stage != "putting"]


def assert_ordered(turn: Told) -> None:
    """Check a response's numbers, its beginning, and its one end."""
    kinds = [event.WhichOneof("kind") for event in turn]
    assert [event.sequence_number for event in turn] == list(range(len(turn))), kinds
    assert kinds[0] == "created", kinds
    assert [kind for kind in kinds if kind in TERMINAL] == kinds[-1:], kinds


def snapshot(turn: Told) -> Any:
    """Return the response at its end."""
    return getattr(turn[-1], turn[-1].WhichOneof("kind") or "").response


@pytest.mark.rule("RV-2", "RV-3", "EV-1")
@pytest.mark.parametrize("stage", WITH_ID)
async def test_a_response_is_cancelled_by_its_id_wherever_it_stands(stage: str) -> None:
    async with world(stage) as place:
        place.send(**REQUESTS[stage])
        response_id = await place.reached()
        cancelling = asyncio.create_task(place.engine.responses.cancel("alice", response_id))
        await asyncio.sleep(0)
        place.gate.opened.set()
        told = await cancelling
        await place.rest()
        [turn] = place.turns()
        assert_ordered(turn)
        expected = "cancelled" if stage in BEFORE_ITS_END else "completed"
        assert told.status == snapshot(turn).status == expected
        assert told == snapshot(turn)
        assert await place.again(response_id) == turn


@pytest.mark.rule("RV-3")
@pytest.mark.parametrize("stage", WITH_ID)
async def test_two_who_cancel_at_once_are_both_answered(stage: str) -> None:
    async with world(stage) as place:
        place.send(**REQUESTS[stage])
        response_id = await place.reached()
        both = asyncio.gather(
            place.engine.responses.cancel("alice", response_id),
            place.engine.responses.cancel("alice", response_id),
        )
        await asyncio.sleep(0)
        place.gate.opened.set()
        one, other = await both
        assert one == other
        await place.rest()
        assert_ordered(place.turns()[0])


@pytest.mark.rule("RV-4")
@pytest.mark.parametrize("stage", WITH_ID)
async def test_a_response_is_deleted_while_it_is_made(stage: str) -> None:
    async with world(stage) as place:
        place.send(**REQUESTS[stage])
        response_id = await place.reached()
        deleting = asyncio.create_task(place.engine.responses.delete("alice", response_id))
        await asyncio.sleep(0)
        place.gate.opened.set()
        assert (await deleting).deleted
        await place.rest()
        assert_ordered(place.turns()[0])
        with pytest.raises(NotFound):
            await place.engine.responses.get("alice", response_id)
        place.send(input="on", previous_response_id=response_id)
        [event] = (await place.hear("error"))[-1:]
        assert event.error.error.code == "previous_response_not_found"


@pytest.mark.rule("IN-1", "EV-1", "RV-2")
@pytest.mark.parametrize("stage", WITH_ID)
async def test_a_response_is_interrupted_wherever_it_stands(stage: str) -> None:
    async with world(stage) as place:
        place.send(**REQUESTS[stage])
        response_id = await place.reached()
        place.send(type="response.interrupt", response_id=response_id)
        place.send(type="response.interrupt", response_id=response_id)
        place.gate.opened.set()
        await place.rest()
        [turn] = place.turns()
        assert_ordered(turn)
        if stage in BEFORE_ITS_END:
            assert snapshot(turn).incomplete_details.reason == "interrupted"
        assert await place.again(response_id) == turn


@pytest.mark.rule("IN-1")
@pytest.mark.parametrize("stage", ["generating", "compacting"])
async def test_an_item_that_was_begun_is_ended_or_said_to_be_interrupted(stage: str) -> None:
    async with world(stage) as place:
        place.send(**REQUESTS[stage])
        response_id = await place.reached()
        place.send(type="response.interrupt", response_id=response_id)
        await place.rest()
        [turn] = place.turns()
        kinds = [event.WhichOneof("kind") for event in turn]
        ended = kinds.count("output_item_done") + kinds.count("output_item_interrupted")
        assert kinds.count("output_item_added") == ended


@pytest.mark.rule("ST-2", "ST-3", "EV-1", "RV-2")
@pytest.mark.parametrize("stage", WITH_ID)
async def test_a_response_is_steered_wherever_it_stands(stage: str) -> None:
    async with world(stage) as place:
        place.send(**REQUESTS[stage])
        response_id = await place.reached()
        place.send(type="response.steer", previous_response_id=response_id, input="left")
        place.gate.opened.set()
        await place.rest()
        turn, *rest = place.turns()
        assert_ordered(turn)
        assert await place.again(response_id) == turn
        if stage not in BEFORE_ITS_END:
            [refused] = [e.steer_failed for e in place.told if e.HasField("steer_failed")]
            assert refused.error.code == "response_not_active"
            return
        [follows] = rest
        assert_ordered(follows)
        assert snapshot(follows).settings.previous_response_id == response_id
        assert snapshot(follows).output[0].message.content[0].output_text.text == "left"


@pytest.mark.rule("SS-10")
@pytest.mark.parametrize("stage", REQUESTS)
async def test_a_client_that_goes_away_at_any_stage_leaves_nothing_behind(stage: str) -> None:
    async with world(stage) as place:
        place.send(**REQUESTS[stage])
        await place.reached()
        before = list(place.told)
        place.connection.close(Ending.GONE)
        await place.rest()
        place.assert_quiet()
        assert place.told == before


@pytest.mark.rule("SS-10")
@pytest.mark.parametrize("stage", WITH_ID)
@pytest.mark.parametrize("first", ["stop", "close"])
async def test_a_stop_and_a_departure_in_the_same_moment_leave_nothing_behind(
    stage: str, first: str
) -> None:
    async with world(stage) as place:
        place.send(**REQUESTS[stage])
        response_id = await place.reached()
        [run] = place.engine.responses._state.live._runs.values()
        _, follower = run.follow()
        before = len(place.told)
        acts: list[Callable[[], None]] = [
            lambda: run.stop("cancelled"),
            lambda: place.connection.close(Ending.GONE),
        ]
        for act in acts if first == "stop" else reversed(acts):
            act()
        await place.rest()
        place.assert_quiet()
        assert len(place.told) == before
        [*_, last] = await taken(follower)
        assert last.incomplete.response.status == "cancelled"
        kept = await place.engine.responses.get("alice", response_id)
        assert kept == last.incomplete.response
        assert not kept.HasField("completed_at")
        assert (await place.again(response_id))[-1] == last


@pytest.mark.rule("LV-6", "EV-1", "EV-3")
@pytest.mark.parametrize("stage", REQUESTS)
async def test_a_turn_that_is_cut_is_told_its_end_once_and_is_kept_as_it_was_told(
    stage: str,
) -> None:
    async with world(stage) as place:
        place.send(**REQUESTS[stage])
        response_id = await place.reached()
        async with asyncio.timeout(WAIT):
            await place.engine.drain(0)
        await place.rest()
        assert set(place.endings) == {Ending.DRAIN}
        turn = place.turns()[0]
        if turn[0].HasField("error") and not response_id:
            assert turn[0].error.error.code == "server_error"
            return
        assert_ordered(turn)
        assert snapshot(turn).status == "failed"
        response_id = snapshot(turn).id
        assert await place.engine.responses.get("alice", response_id) == snapshot(turn)
        assert await place.again(response_id) == turn


async def taken(follower: Follower) -> Told:
    """Take all that a follower is told from now on."""
    told: Told = []
    async with asyncio.timeout(WAIT):
        while events := await follower.take():
            told += map(to_message, events)
    return told


@pytest.mark.rule("RV-2")
@pytest.mark.parametrize("stage", WITH_ID)
@pytest.mark.parametrize("word", ["", "interrupt", "cancel"])
async def test_whoever_follows_from_any_stage_is_told_what_the_client_is(
    stage: str, word: str
) -> None:
    async with world(stage) as place:
        place.send(**REQUESTS[stage], stream_id="lane")
        response_id = await place.reached()
        following = asyncio.create_task(place.again(response_id))
        leaves = await place.engine.responses.follow("alice", response_id, None)
        assert await anext(leaves)
        await leaves.aclose()
        await asyncio.sleep(0)
        if word == "interrupt":
            place.send(type="response.interrupt", response_id=response_id)
        if word == "cancel":
            [run] = place.engine.responses._state.live._runs.values()
            run.stop("cancelled")
        place.gate.opened.set()
        async with asyncio.timeout(WAIT):
            told = await following
        await place.rest()
        [turn] = place.turns()
        assert_ordered(turn)
        for event in turn:
            assert event.stream_id == "lane"
            event.ClearField("stream_id")
        assert told == turn


@pytest.mark.rule("RV-2")
async def test_whoever_follows_what_has_just_ended_is_told_all_of_it() -> None:
    async with world("putting") as place:
        place.send(input=SAID)
        await place.reached()
        [run] = place.engine.responses._state.live._runs.values()
        place.gate.opened.set()
        await place.rest()
        so_far, follower = run.follow()
        assert list(so_far) == place.told
        assert await taken(follower) == []
        follower.leave()
        assert run._followers == []


@pytest.mark.rule("RV-2")
async def test_whoever_follows_hears_nothing_after_the_end() -> None:
    async with world("generating") as place:
        place.send(**REQUESTS["generating"])
        response_id = await place.reached()
        [run] = place.engine.responses._state.live._runs.values()
        _, follower = run.follow()
        place.send(type="response.steer", previous_response_id=response_id, input="left")
        place.send(type="response.interrupt", response_id=response_id)
        await place.rest()
        assert "steer_failed" in [event.WhichOneof("kind") for event in place.told]
        assert (await taken(follower))[-1].WhichOneof("kind") == "incomplete"


async def test_a_batch_without_events_is_not_the_end_for_whoever_follows() -> None:
    follower = Follower(lambda _: None)
    taking = asyncio.create_task(follower.take())
    await asyncio.sleep(0)
    follower.deliver([])
    await asyncio.sleep(0)
    event = events_pb2.ServerEvent(sequence_number=0)
    follower.deliver([event])
    async with asyncio.timeout(WAIT):
        assert list(await taking) == [event]
    follower.end()
    assert await taken(follower) == []


async def test_whoever_follows_too_slowly_is_not_kept_events_for_without_end() -> None:
    follower = Follower(lambda _: None)
    for _ in range(3):
        follower.deliver([events_pb2.ServerEvent()] * 65_536)
    assert len(follower._events) <= 2 * 65_536
    with pytest.raises(SessionError) as told:
        await follower.take()
    assert told.value.ending is Ending.SLOW_READER


@pytest.mark.rule("MO-3")
@pytest.mark.parametrize("word", ["interrupt", "steer"])
async def test_what_is_stopped_before_its_screening_does_not_bring_its_input_in(word: str) -> None:
    async with world("screening") as place:
        place.send(input="bomb", moderation=BLOCKS)
        response_id = await place.reached()
        if word == "interrupt":
            place.send(type="response.interrupt", response_id=response_id)
        else:
            place.send(type="response.steer", previous_response_id=response_id, input="left")
        await place.hear("incomplete")
        await place.rest()
        place.send(input="#sim history", previous_response_id=response_id, moderation=BLOCKS)
        told = await place.hear("completed", 1 if word == "interrupt" else 2)
        await place.rest()
        assert snapshot(told).output[0].message.content[0].output_text.text == "1"


class Nonsense(Simulator):
    """A model server that sends arguments without a call, after something that makes sense."""

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        del prompt
        yield [Text("so far so good"), CallText("{}"), Finished("stop", 1, 0, 1)]


@pytest.mark.rule("EV-1", "EV-12")
async def test_a_batch_that_makes_no_sense_leaves_no_gap() -> None:
    async with world("", lambda _: Nonsense()) as place:
        place.send(input=SAID)
        told = await place.hear("failed")
        assert_ordered(told)


@pytest.mark.rule("EV-1")
@pytest.mark.parametrize("stage", ["asking", "generating"])
async def test_a_model_that_fails_as_it_is_stopped_ends_the_turn_once(stage: str) -> None:
    class Failing(Staged):
        async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
            try:
                async for batch in super().generate(prompt):
                    yield batch
            except asyncio.CancelledError:
                raise OSError("the connection to the model server is gone") from None

    async with world(stage, Failing) as place:
        place.send(**REQUESTS[stage])
        response_id = await place.reached()
        place.send(type="response.interrupt", response_id=response_id)
        await place.rest()
        [turn] = place.turns()
        assert_ordered(turn)
        place.gate.opened.set()
        place.send(input="next")
        told = await place.hear("completed")
        assert snapshot(told).output[0].message.content[0].output_text.text == "next"
