"""Many caches, one memory: who gives way, in which order, and whether the bytes add up."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.cache import Bounds, NodeCache
from service.conversation import Node, Segment
from service.pool import Pool, Reason, Shelf, Standing
from turnwire.v1 import items_pb2

HUGE = 1 << 40


def node(name: str, parent: Node | None = None, tenant: str = "t", size: int = 10) -> Node:
    item = items_pb2.Item(message=items_pb2.Message(role="user", content_text="x" * size))
    return Node(
        tenant=tenant,
        id=name,
        parent_id=parent.id if parent else None,
        segment=Segment(parent.segment if parent else None, [item]),
        inputs=0,
        pending_calls=frozenset(),
    )


class Told(NamedTuple):
    """An eviction: of which cache, and why."""

    cache: str
    reason: Reason


class Caches:
    """Caches of one process, with clocks that tick at every look."""

    def __init__(self, budget: int = HUGE) -> None:
        self.pool = Pool(budget)
        self.told: list[Told] = []
        self._now = 0.0

    def own(self, name: str, budget: int = HUGE) -> NodeCache:
        return self._cache(name, Standing.OWN, budget)

    def shared(self, name: str = "store", budget: int = HUGE) -> NodeCache:
        return self._cache(name, Standing.SHARED, budget)

    def shrink_by(self, size: int) -> None:
        self.pool.budget = self.pool.bytes - size
        self.pool.make_room()

    def _cache(self, name: str, standing: Standing, budget: int) -> NodeCache:
        return NodeCache(Bounds(budget=budget), self._tick, self._teller(name), self.pool, standing)

    def _teller(self, name: str) -> Callable[[Reason], None]:
        return lambda reason: self.told.append(Told(name, reason))

    def _tick(self) -> float:
        self._now += 1
        return self._now


def has(cache: NodeCache, one: Node) -> bool:
    return cache.get((one.tenant, one.id)) is not None


def test_a_node_in_two_caches_is_counted_once() -> None:
    caches = Caches()
    connection, store = caches.own("connection"), caches.shared()
    one = node("a", size=5000)
    connection.put(one)
    before = caches.pool.bytes
    store.put(one)
    assert caches.pool.bytes - before == Shelf.weight
    connection.discard(("t", "a"))
    assert caches.pool.bytes == before
    store.discard(("t", "a"))
    assert caches.pool.bytes == 0


def test_what_has_been_continued_goes_first_whichever_cache_it_is_in() -> None:
    caches = Caches()
    old, busy, store = caches.own("old"), caches.own("busy"), caches.shared()
    tip, parent, stored = node("tip"), node("parent"), node("stored")
    child = node("child", parent)
    old.put(tip)
    store.put(stored)
    busy.put(parent)
    busy.put(child)
    caches.shrink_by(1)
    assert caches.told == [Told("busy", "quota")]
    assert not has(busy, parent)


def test_then_what_the_store_can_fetch_again_goes_the_oldest_first() -> None:
    caches = Caches()
    connection, store, conversations = caches.own("c"), caches.shared(), caches.shared("conv")
    nodes = [node(str(number), size=3000) for number in range(4)]
    connection.put(nodes[0])
    store.put(nodes[1])
    conversations.put(nodes[2])
    store.put(nodes[3])
    caches.shrink_by(5000)
    assert caches.told == [Told("store", "quota"), Told("conv", "quota")]
    assert has(store, nodes[3])
    assert has(connection, nodes[0])


def test_then_the_connections_give_way_that_were_not_used_for_longest() -> None:
    caches = Caches()
    connections = [caches.own(str(number)) for number in range(4)]
    nodes = [node(str(number)) for number in range(4)]
    for connection, one in zip(connections, nodes, strict=True):
        connection.put(one)
    connections[0].get(("t", "0"))
    caches.shrink_by(2 * nodes[0].weight + Shelf.weight)
    assert [told.cache for told in caches.told] == ["1", "2"]
    assert has(connections[0], nodes[0])
    assert has(connections[3], nodes[3])


def test_a_large_tenant_cannot_flush_a_small_one() -> None:
    caches = Caches(400_000)
    small, large = caches.own("small"), caches.own("large")
    mine = [node(str(number), tenant="small", size=1000) for number in range(10)]
    for one in mine:
        small.put(one)
    for number in range(1000):
        large.put(node(f"large{number}", tenant="large", size=1000))
    assert all(has(small, one) for one in mine)
    assert {told.cache for told in caches.told} == {"large"}
    assert caches.pool.held("large") > 300_000


def test_tenants_that_want_it_all_get_equal_parts() -> None:
    caches = Caches(600_000)
    connections = {tenant: caches.own(tenant) for tenant in ("a", "b", "c")}
    for number in range(900):
        tenant = "aaabbc"[number % 6]
        connections[tenant].put(node(str(number), tenant=tenant, size=1000))
    parts = [caches.pool.held(tenant) for tenant in connections]
    assert min(parts) > 0.8 * max(parts)


def test_what_a_turn_continues_stays_and_is_counted() -> None:
    caches = Caches()
    connection = caches.own("connection")
    nodes = [node(str(number)) for number in range(3)]
    for one in nodes:
        connection.put(one)
    with caches.pool.using(nodes[0]), caches.pool.using(nodes[0]):
        caches.pool.budget = 0
        caches.pool.make_room()
        assert has(connection, nodes[0])
        assert len(connection) == 1
        connection.close()
        assert caches.pool.bytes == nodes[0].weight + nodes[0].segment.weight
    assert caches.pool.bytes == 0


def test_when_the_turn_has_ended_it_goes_like_all_others() -> None:
    caches = Caches()
    connection, one = caches.own("connection"), node("a")
    connection.put(one)
    with caches.pool.using(one):
        pass
    caches.shrink_by(1)
    assert not has(connection, one)


def test_what_turns_continue_does_not_cost_other_tenants_their_share() -> None:
    caches = Caches()
    busy, quiet = caches.own("busy"), caches.own("quiet")
    large, small = node("a", tenant="busy", size=100_000), node("b", tenant="quiet")
    busy.put(large)
    quiet.put(small)
    with caches.pool.using(large):
        caches.shrink_by(1000)
        assert has(quiet, small)
        assert has(busy, large)


def test_the_newest_node_stays_even_if_all_together_have_no_room_for_it() -> None:
    caches = Caches(budget=100)
    connection = caches.own("connection")
    old, new = node("old"), node("new", size=5000)
    connection.put(old)
    connection.put(new)
    assert not has(connection, old)
    assert has(connection, new)


def test_a_process_that_is_short_of_memory_says_so() -> None:
    caches = Caches()
    connection = caches.own("connection")
    connection.put(node("a"))
    caches.pool.tight = True
    caches.shrink_by(1)
    assert caches.told == [Told("connection", "pressure")]


def test_room_is_made_in_bulk() -> None:
    caches = Caches(1_000_000)
    connection = caches.own("connection")
    rounds = 0
    for number in range(2000):
        before = len(caches.told)
        connection.put(node(str(number), size=1000))
        rounds += len(caches.told) > before
    assert len(caches.told) > 1000
    assert rounds < len(caches.told) / 5


def test_a_tenant_that_has_nothing_left_leaves_nothing_behind() -> None:
    caches = Caches()
    connection = caches.own("connection")
    for number in range(10):
        connection.put(node("a", tenant=str(number)))
        connection.discard((str(number), "a"))
    assert caches.pool.bytes == 0
    assert not connection._shelves
    assert not caches.pool._shares


NODES = st.integers(0, 15)
NAMES = st.sampled_from(["one", "two", "store", "conversations"])
BUDGET = 20_000


class Everything(RuleBasedStateMachine):
    """Caches that are used at random, weighed by looking at everything."""

    def __init__(self) -> None:
        super().__init__()
        self.caches = Caches(BUDGET)
        self.kinds = {
            "one": self.caches.own("one", BUDGET // 2),
            "two": self.caches.own("two"),
            "store": self.caches.shared("store", BUDGET // 2),
            "conversations": self.caches.shared("conversations"),
        }
        self.nodes = [node(str(number), tenant="abc"[number]) for number in range(3)]
        self.turns: dict[Node, AbstractContextManager[None]] = {}

    @rule(parent=NODES, size=st.integers(1, 3000))
    def say(self, parent: int, size: int) -> None:
        continued = self.nodes[parent % len(self.nodes)]
        self.nodes.append(node(str(len(self.nodes)), continued, continued.tenant, size))

    @rule(name=NAMES, number=NODES)
    def put(self, name: str, number: int) -> None:
        self.kinds[name].put(self._node(number))
        assert _in(self.kinds[name], self._node(number))

    @rule(name=NAMES, number=NODES)
    def replace(self, name: str, number: int) -> None:
        self.kinds[name].replace(self._node(number))

    @rule(name=NAMES, number=NODES)
    def get(self, name: str, number: int) -> None:
        self.kinds[name].get(("abc"[number % 3], str(number)))

    @rule(name=NAMES, number=NODES)
    def discard(self, name: str, number: int) -> None:
        self.kinds[name].discard(("abc"[number % 3], str(number)))

    @rule(name=NAMES)
    def close(self, name: str) -> None:
        self.kinds[name].close()

    @rule(number=NODES)
    def begin(self, number: int) -> None:
        if (one := self._node(number)) not in self.turns:
            self.turns[one] = self.caches.pool.using(one)
            self.turns[one].__enter__()

    @rule(number=NODES)
    def end(self, number: int) -> None:
        if turn := self.turns.pop(self._node(number), None):
            turn.__exit__(None, None, None)

    @rule(budget=st.integers(0, BUDGET))
    def change(self, budget: int) -> None:
        self.caches.pool.budget = budget
        self.caches.pool.make_room()
        assert self.caches.pool.bytes <= max(budget, self._needed())

    @invariant()
    def all_is_counted_once(self) -> None:
        held = {tenant: self._bytes(tenant) for tenant in "abc"}
        assert {tenant: self.caches.pool.held(tenant) for tenant in held} == held
        assert self.caches.pool.bytes == sum(held.values())
        for cache in self.kinds.values():
            assert cache.bytes == sum(s.ledger.bytes for s in cache._shelves.values())

    def _node(self, number: int) -> Node:
        return self.nodes[number % len(self.nodes)]

    def _bytes(self, tenant: str) -> int:
        shelves = 0
        held = {one for one in self.turns if one.tenant == tenant}
        for cache in self.kinds.values():
            there = {one for one in self.nodes if one.tenant == tenant and _in(cache, one)}
            shelves += bool(there)
            held |= there
        return weight(held) + shelves * Shelf.weight

    def _needed(self) -> int:
        """Weigh what turns continue, with the shelves that it may be on."""
        return weight(self.turns) + len(self.kinds) * len("abc") * Shelf.weight


TestEverything = Everything.TestCase


def weight(nodes: Iterable[Node]) -> int:
    links = {link for one in nodes for link in one.segment.path()}
    return sum(one.weight for one in nodes) + sum(link.weight for link in links)


def _in(cache: NodeCache, one: Node) -> bool:
    """Look without using."""
    shelf = cache._shelves.get(one.tenant)
    return shelf is not None and shelf.find(one.id) is not None
