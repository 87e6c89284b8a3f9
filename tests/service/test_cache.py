"""Nodes within a budget: who goes first, and whether the bytes add up."""

import dataclasses
import itertools

from hypothesis import given
from hypothesis import strategies as st

from service.cache import Bounds, NodeCache
from service.conversation import AddedTools, Node, Rendered, Segment
from turnwire.v1 import items_pb2

HUGE = 1 << 40


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def item(size: int = 10) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(role="user", content_text="x" * size))


def node(name: str, parent: Node | None = None, tenant: str = "t", size: int = 10) -> Node:
    return Node(
        tenant=tenant,
        id=name,
        parent_id=parent.id if parent else None,
        segment=Segment(parent.segment if parent else None, [item(size)]),
        inputs=0,
        pending_calls=frozenset(),
    )


def cache(budget: int = HUGE, clock: Clock | None = None, ttl: float = HUGE) -> NodeCache:
    return NodeCache(Bounds(budget=budget, ttl=ttl), clock or Clock())


def room_for(*nodes: Node) -> int:
    filled = cache()
    for one in nodes:
        filled.put(one)
    return filled.bytes


def test_a_node_is_found_by_its_tenant_only() -> None:
    held = cache()
    held.put(node("a"))
    assert held.get(("t", "a"))
    assert held.get(("other", "a")) is None


def test_what_has_been_continued_goes_first() -> None:
    parent, old = node("parent"), node("old")
    child = node("child", parent)
    held = cache(room_for(parent, old, child) - 1)
    for one in (old, parent, child):
        held.put(one)
    assert held.get(("t", "parent")) is None
    assert held.get(("t", "old"))
    assert held.get(("t", "child"))


def test_a_superseded_node_lets_its_childs_context_live() -> None:
    parent = node("parent", size=5000)
    child = node("child", parent)
    held = cache(room_for(parent, child) - 1)
    held.put(parent)
    held.put(child)
    found = held.get(("t", "child"))
    assert found
    assert [len(segment.items) for segment in found.segment.path()] == [1, 1]
    assert held.bytes > 5000


def test_among_the_others_the_least_recently_used_goes_first() -> None:
    a, b, c = node("a"), node("b"), node("c")
    held = cache(room_for(a, b, c) - 1)
    held.put(a)
    held.put(b)
    held.get(("t", "a"))
    held.put(c)
    assert held.get(("t", "b")) is None
    assert held.get(("t", "a"))


def test_the_newest_node_stays_even_if_it_is_too_big() -> None:
    held = cache(10)
    held.put(node("a", size=5000))
    assert held.get(("t", "a"))


def test_nodes_expire_when_they_are_not_used() -> None:
    clock = Clock()
    held = cache(clock=clock, ttl=10)
    held.put(node("a"))
    held.put(node("b"))
    clock.now = 9
    held.get(("t", "a"))
    clock.now = 15
    held.expire()
    assert held.get(("t", "b")) is None
    assert held.get(("t", "a"))


def test_an_expired_node_is_not_found_before_it_is_cleared_away() -> None:
    clock = Clock()
    held = cache(clock=clock, ttl=10)
    held.put(node("a"))
    clock.now = 11
    assert held.get(("t", "a")) is None
    assert len(held) == 0


def test_evictions_are_told_with_their_reason() -> None:
    reasons: list[str] = []
    parent = node("parent")
    held = NodeCache(Bounds(budget=1), Clock(), reasons.append)
    held.put(parent)
    held.put(node("child", parent))
    held.put(node("other"))
    assert reasons == ["superseded", "lru"]


def test_calls_without_an_output_weigh_something() -> None:
    plain = node("a")
    calls = frozenset(f"call_{number}" for number in range(100))
    assert dataclasses.replace(plain, pending_calls=calls).weight > plain.weight + 100 * 6


def test_a_tenant_with_more_than_its_share_gives_way_and_not_the_others() -> None:
    small = [node(f"small{number}", tenant="small") for number in range(3)]
    large = [node(f"large{number}", tenant="large") for number in range(20)]
    held = cache(room_for(*small, *large[:4]))
    for one in small + large:
        held.put(one)
    assert all(held.get(("small", one.id)) for one in small)
    assert held.get(("large", "large19"))
    assert held.get(("large", "large0")) is None


def test_a_tenant_alone_may_use_it_all() -> None:
    nodes = [node(str(number)) for number in range(10)]
    held = cache(room_for(*nodes))
    for one in nodes:
        held.put(one)
    assert len(held) == 10


def test_a_node_that_can_be_had_again_is_not_taken_in_while_memory_is_short() -> None:
    held = cache()
    held.pool.tight = True
    held.offer(node("a"))
    assert held.get(("t", "a")) is None
    held.put(node("b"))
    held.pool.tight = False
    held.offer(node("c"))
    assert held.get(("t", "b"))
    assert held.get(("t", "c"))


def test_a_cache_that_is_closed_uses_no_memory() -> None:
    held, other = cache(), cache()
    other.pool = held.pool
    one = node("a")
    held.put(one)
    other.put(one)
    held.put(node("b", one))
    held.put(node("c", tenant="other"))
    held.close()
    assert (held.bytes, len(held)) == (0, 0)
    assert other.get(("t", "a"))
    other.close()
    assert held.pool.bytes == 0


def test_a_node_in_the_place_of_another_is_the_only_one_that_is_counted() -> None:
    held = cache()
    old = node("a", size=5000)
    held.put(old)
    held.replace(dataclasses.replace(old, pending_calls=frozenset({"call_1"})))
    found = held.get(("t", "a"))
    assert found
    assert found.pending_calls
    assert (len(held), held.bytes) == (1, found.weight + found.segment.weight)


def test_putting_a_node_twice_counts_it_once() -> None:
    held = cache()
    one = node("a")
    held.put(one)
    before = held.bytes
    held.put(one)
    assert held.bytes == before


def test_what_a_model_server_renders_later_is_counted_with_the_next_node() -> None:
    held = cache()
    nodes = [node("0")]
    held.put(nodes[0])
    for number in range(1, 4):
        nodes.append(node(str(number), nodes[-1]))
        held.put(nodes[-1])
    before = held.bytes
    lean = nodes[0].segment.weight
    for one in nodes[:3]:
        one.segment.rendered["other"] = Rendered(bytes(1000), 250)
    grown = nodes[0].segment.weight - lean
    last = node("4", nodes[3])
    held.put(last)  # what was rendered before is not looked for behind a segment that did not grow
    assert held.bytes == before + last.weight + last.segment.weight
    nodes[3].segment.rendered["other"] = Rendered(bytes(1000), 250)
    held.put(node("5", last))
    fork = node("6", nodes[3])
    held.put(fork)
    assert grown > 1000
    assert held.bytes == before + sum((4 * grown, 3 * fork.weight, 3 * fork.segment.weight))


def test_tools_that_were_added_are_counted_once_and_let_go_with_the_last_that_has_them() -> None:
    tool = items_pb2.Tool(function=items_pb2.FunctionTool(name="f" * 5000))
    tools = AddedTools(None, [tool])
    first = dataclasses.replace(node("a"), tools=tools)
    second = dataclasses.replace(node("b", first), tools=AddedTools(tools, [tool]))
    held = cache()
    held.put(first)
    alone = held.bytes
    assert alone > 5000
    held.put(second)
    assert 5000 < held.bytes - alone < 10_000
    held.discard(("t", "a"))
    assert held.bytes > 10_000
    held.discard(("t", "b"))
    assert held.bytes == 0


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 400)), max_size=60), st.integers(0, 9))
def test_bytes_are_those_of_what_is_held(turns: list[tuple[int, int]], budget: int) -> None:
    held = cache(2000 + budget * 1500)
    nodes: list[Node] = []
    for number, (parent, size) in enumerate(turns):
        nodes.append(node(str(number), nodes[parent] if parent < len(nodes) else None, size=size))
        held.put(nodes[-1])
    kept = [one for one in nodes if held.get(("t", one.id))]
    segments = {id(s): s for s in itertools.chain.from_iterable(k.segment.path() for k in kept)}
    weights = sum(one.weight for one in kept) + sum(s.weight for s in segments.values())
    assert held.bytes == weights
    assert held.bytes <= max(held.bounds.budget, 0) or len(kept) == 1
    for one in kept:
        held.discard(("t", one.id))
    assert held.bytes == 0
