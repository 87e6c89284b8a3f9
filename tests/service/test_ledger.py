"""What is held is counted once, and what equal shares of it are."""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.conversation import AddedTools, Link, Node, Rendered, Segment
from service.ledger import Ledger, waterline
from turnwire.v1 import items_pb2

_TOOL = items_pb2.Tool(function=items_pb2.FunctionTool(name="f"))
FORESTS = st.lists(
    st.tuples(st.integers(0, 20), st.integers(1, 300), st.booleans()), min_size=1, max_size=20
)
"""What each node continues, if it is one before it; how much it adds, and whether a tool."""
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=80)


def node(name: str, parent: Node | None = None, size: int = 10, tool: bool = False) -> Node:
    item = items_pb2.Item(message=items_pb2.Message(role="user", content_text="x" * size))
    before = parent.tools if parent else None
    return Node(
        tenant="t",
        id=name,
        parent_id=parent.id if parent else None,
        segment=Segment(parent.segment if parent else None, [item]),
        inputs=0,
        pending_calls=frozenset(),
        tools=AddedTools(before, [_TOOL]) if tool else before,
    )


def forest(plan: Sequence[tuple[int, int, bool]]) -> list[Node]:
    nodes: list[Node] = []
    for number, (parent, size, tool) in enumerate(plan):
        continued = nodes[parent] if parent < len(nodes) else None
        nodes.append(node(str(number), continued, size, tool))
    return nodes


def weight(nodes: Iterable[Node]) -> int:
    """Weigh what is reached from these nodes, by looking at all of it."""
    held, links = set(nodes), set[Link]()
    for one in held:
        for end in one.chains:
            link: Link | None = end
            while link is not None:
                links.add(link)
                link = link.parent
    return sum(one.weight for one in held) + sum(link.weight for link in links)


@given(FORESTS, STEPS)
def test_bytes_are_those_of_what_can_be_reached(
    plan: list[tuple[int, int, bool]], steps: list[tuple[bool, int]]
) -> None:
    nodes, held, ledger = forest(plan), Counter[Node](), Ledger()
    for more, number in steps:
        one = nodes[number % len(nodes)]
        before = ledger.bytes
        if more:
            assert ledger.hold(one) == ledger.bytes - before
            held[one] += 1
        elif held[one]:
            assert ledger.let_go(one) == before - ledger.bytes
            held[one] -= 1
        assert ledger.bytes == weight(+held)
        assert len(ledger) == len(+held)


@given(FORESTS, st.lists(st.integers(0, 40), max_size=20))
def test_what_grew_is_counted_when_a_node_that_stands_on_it_is_held(
    plan: list[tuple[int, int, bool]], turns: list[int]
) -> None:
    nodes, ledger = forest(plan), Ledger()
    for one in nodes:
        ledger.hold(one)
    held = list(nodes)
    for number, turn in enumerate(turns):
        parent = held[turn % len(held)]
        for segment in parent.segment.path():  # a model server renders all that it lacks
            segment.rendered.setdefault("dialect", Rendered(bytes(50), 12))
        held.append(node(f"more{number}", parent))
        ledger.hold(held[-1])
        assert ledger.bytes == weight(held)
    for one in held:
        ledger.let_go(one)
    assert ledger.bytes == 0


def test_a_node_that_is_held_twice_is_weighed_again_with_the_second() -> None:
    ledger, one = Ledger(), node("a")
    ledger.hold(one)
    one.segment.rendered["dialect"] = Rendered(bytes(5000), 1250)
    assert ledger.hold(one) > 5000
    assert ledger.bytes == weight([one])


def test_a_node_and_its_twin_share_what_they_stand_on() -> None:
    ledger, one = Ledger(), node("a", size=5000)
    ledger.hold(one)
    assert ledger.hold(dataclasses.replace(one)) == one.weight


@pytest.mark.parametrize(
    ("sizes", "total", "most"),
    [
        ([], 10, 0),
        ([100], 10, 10),
        ([3], 10, 3),
        ([10, 10], 10, 5),
        ([1, 10, 10], 11, 5),
        ([2, 90], 80, 78),
    ],
)
def test_what_some_do_not_need_the_others_share(sizes: list[int], total: int, most: int) -> None:
    assert waterline(sizes, total) == most


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(0, 10_000))
def test_shares_are_equal_and_use_what_there_is(sizes: list[int], total: int) -> None:
    most = waterline(sizes, total)
    shares = [min(size, most) for size in sizes]
    assert sum(shares) <= total
    if sum(sizes) > total:
        assert sum(shares) > total - len(sizes)
    else:
        assert shares == sizes
