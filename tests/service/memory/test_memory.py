"""What gives way when the process runs short of memory, and when it may grow again."""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pytest
from prometheus_client import CollectorRegistry

from service.cache import Bounds, SegmentCache
from service.conversation import Link
from service.limits import MIB
from service.memory import Memory, MemoryLimits, Pressure
from service.memory.process import Usage
from service.metrics import Metrics

LIMIT = 1000 * MIB
HUGE = 1 << 40


class Scripted:
    """A process that uses what it is told to."""

    def __init__(self, used: int = 0) -> None:
        self.used = used

    def usage(self) -> Usage:
        return Usage(resident=self.used, used=self.used, limit=LIMIT)


class Growing:
    """A process that has what conversations hold in memory, and as much again as it is told to."""

    def __init__(self, rest: int) -> None:
        self.rest = rest
        self.held: Callable[[], int] = lambda: 0

    def usage(self) -> Usage:
        used = self.rest + self.held()
        return Usage(resident=used, used=used, limit=LIMIT)


def memory(process: Scripted | Growing, budget: int = HUGE) -> Memory:
    return Memory(MemoryLimits(budget=budget), process)


@dataclass(frozen=True, eq=False)
class Heavy:
    """Something that is said to weigh much."""

    id: str
    tenant: str = "t"
    parent_id: str | None = None
    chains: Sequence[Link] = ()
    weight: int = MIB


Cache: TypeAlias = SegmentCache[Heavy]


def fill(cache: Cache, nodes: int) -> None:
    for _ in range(nodes):
        cache.put(Heavy(secrets.token_hex(8)))


def connection(of: Memory, reasons: list[str] | None = None) -> Cache:
    told = [] if reasons is None else reasons
    return of.cache(Cache, Bounds(budget=HUGE), told.append)


def looked(of: Memory, process: Scripted, parts: list[float]) -> list[Pressure]:
    pressures = []
    for part in parts:
        process.used = int(part * LIMIT)
        of.look()
        pressures.append(of.pressure)
    return pressures


def test_marks_are_left_a_little_below_where_they_were_reached() -> None:
    process = Scripted()
    none, soft, hard = Pressure
    parts = [0.79, 0.81, 0.78, 0.76, 0.79, 0.93, 0.90, 0.88, 0.93, 0.5]
    pressures = [none, soft, soft, none, none, hard, hard, soft, hard, none]
    assert looked(memory(process), process, parts) == pressures


def test_where_nothing_is_told_of_the_process_there_is_no_pressure() -> None:
    held = Memory(MemoryLimits(budget=64 * MIB))
    held.look()
    assert held.pressure is Pressure.NONE
    assert held.budget == 64 * MIB


def test_all_caches_together_stay_within_the_budget() -> None:
    reasons: list[str] = []
    held = memory(Scripted(), budget=32 * MIB)
    for _ in range(20):
        fill(connection(held, reasons), 4)
        assert held.held <= 32 * MIB
    assert set(reasons) == {"quota"}


def test_conversations_may_grow_until_little_is_left_below_the_soft_mark() -> None:
    process = Growing(rest=600 * MIB)
    held = memory(process)
    process.held = lambda: held.held
    cache = connection(held)
    for _ in range(40):
        held.look()
        fill(cache, 10)
        assert held.pressure is Pressure.NONE
    assert 120 * MIB < held.held < 150 * MIB


def test_beyond_the_soft_mark_they_give_way_until_there_is_room_again() -> None:
    process = Growing(rest=400 * MIB)
    held, reasons = memory(process), list[str]()
    process.held = lambda: held.held
    fill(connection(held, reasons), 300)
    process.rest = 550 * MIB
    pressures = []
    for _ in range(10):
        held.look()
        pressures.append(held.pressure)
    assert pressures[0] is Pressure.SOFT
    assert pressures[-1] is Pressure.NONE
    assert 150 * MIB < held.held < 250 * MIB
    assert set(reasons) == {"pressure"}


def test_what_was_freed_and_not_given_back_yet_is_not_freed_twice_at_once() -> None:
    process = Scripted(int(0.81 * LIMIT))
    held = memory(process)
    fill(connection(held), 300)
    held.look()
    assert held.held > 250 * MIB


def test_beyond_the_hard_mark_they_give_way_by_half() -> None:
    process = Scripted(int(0.95 * LIMIT))
    held = memory(process)
    fill(connection(held), 100)
    held.look()
    assert 40 * MIB < held.held < 60 * MIB


def test_they_keep_a_little_however_short_memory_is() -> None:
    process = Scripted(LIMIT)
    held = memory(process)
    fill(connection(held), 100)
    for _ in range(20):
        held.look()
    assert 12 * MIB < held.held <= 16 * MIB


def test_when_memory_is_free_again_they_may_have_their_budget() -> None:
    process = Scripted()
    held = memory(process, budget=200 * MIB)
    fill(connection(held), 100)
    looked(held, process, [0.95, 0.95])
    assert held.budget < 50 * MIB
    looked(held, process, [0.1])
    assert held.budget == 200 * MIB


def test_what_can_be_had_again_is_not_taken_in_beyond_the_soft_mark() -> None:
    process = Scripted(int(0.85 * LIMIT))
    held = memory(process)
    store = held.shared(Cache, Bounds(budget=HUGE), lambda _: None)
    held.look()
    store.offer(Heavy("a"))
    assert store.get(("t", "a")) is None
    looked(held, process, [0.1])
    store.offer(Heavy("a"))
    assert store.get(("t", "a"))


def test_others_shrink_too_beyond_the_soft_mark_and_not_with_every_look() -> None:
    seconds = [0.0]
    process, shrunk = Scripted(), list[float]()
    held = Memory(MemoryLimits(), process, lambda: seconds[-1])
    held.relieve(lambda: shrunk.append(seconds[-1]))
    looked(held, process, [0.7, 0.79])
    assert shrunk == []
    for second in (1.0, 2.0, 50.0, 70.0, 80.0):
        seconds.append(second)
        looked(held, process, [0.85])
    assert shrunk == [1.0, 70.0]


def test_a_connection_that_is_gone_leaves_nothing_behind() -> None:
    held = memory(Scripted())
    cache = connection(held)
    fill(cache, 1)
    cache.close()
    assert held.held == 0


def test_a_node_that_a_turn_continues_is_held_without_its_cache() -> None:
    held = memory(Scripted())
    cache, one = connection(held), Heavy("a")
    cache.put(one)
    with held.using(one):
        cache.close()
        assert held.held == one.weight
    assert held.held == 0


@pytest.mark.parametrize(
    ("kind", "figure"),
    [("resident", 0.85 * LIMIT), ("limit", LIMIT), ("held", 0), ("budget", 16 * MIB)],
)
def test_the_figures_are_metrics(kind: str, figure: float) -> None:
    registry, process = CollectorRegistry(), Scripted()
    held = memory(process)
    held.measure(Metrics(registry))
    looked(held, process, [0.85])
    assert registry.get_sample_value("turnwire_memory_bytes", {"kind": kind}) == figure
    assert registry.get_sample_value("turnwire_memory_pressure") == Pressure.SOFT
