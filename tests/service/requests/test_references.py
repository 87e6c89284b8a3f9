"""What references stand for, and what finding that may cost."""

import pytest

from service import ids
from service.conversation import DurableNode, Node, Segment
from service.errors import NotFound, Refusal
from service.requests.references import References
from turnwire.v1 import items_pb2

MOST = 1 << 20


def said(text: str, item_id: str | None = None) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(id=item_id, role="user", content_text=text))


def reference(item_id: str) -> items_pb2.Item:
    return items_pb2.Item(item_reference=items_pb2.ItemReference(id=item_id))


def node(*items: items_pb2.Item, parent: Node | None = None, inputs: int = 1) -> Node:
    return Node(
        tenant="alice",
        id=ids.response_id(parent.id if parent else None),
        parent_id=parent.id if parent else None,
        segment=Segment(parent.segment if parent else None, items),
        inputs=inputs,
        pending_calls=frozenset(),
    )


class Shelf:
    """Responses that can be found, and how often each was asked for."""

    def __init__(self, *nodes: Node) -> None:
        self._nodes = {node.id: node for node in nodes}
        self.asked: list[str] = []

    async def find(self, response_id: str) -> Node | None:
        self.asked.append(response_id)
        return self._nodes.get(response_id)


def references(
    *nodes: Node, parent: Node | None = None, kind: type[Node] = Node, most_bytes: int = MOST
) -> References:
    return References(Shelf(*nodes).find, parent, kind, most_bytes)


async def resolved(given: References, *names: str) -> list[str]:
    items = await given.resolve([reference(name) for name in names])
    return [item.message.content_text for item in items]


async def test_what_has_no_references_comes_back_itself() -> None:
    items = [said("one")]
    assert await references().resolve(items) is items


async def test_an_id_that_was_given_here_says_where_its_item_is() -> None:
    stored = node(said("asked"), said("answered"))
    asked = ids.input_item_id("msg", stored.id, 0)
    answered = ids.item_id("msg", stored.id, 0)
    assert await resolved(references(stored), answered, asked) == ["answered", "asked"]


async def test_a_response_is_looked_up_once_in_whatever_order_it_is_referred_to() -> None:
    one, two = (node(*[said(f"{name}{n}") for n in range(9)], inputs=9) for name in "ab")
    shelf = Shelf(one, two)
    given = References(shelf.find, None, Node, MOST)
    names = [ids.input_item_id("msg", each.id, n) for n in range(9) for each in (one, two)]
    assert await resolved(given, *names) == [f"{name}{n}" for n in range(9) for name in "ab"]
    assert sorted(shelf.asked) == sorted([one.id, two.id])


async def test_of_several_with_one_id_the_newest_is_meant() -> None:
    first = node(said("old", "mine"), said("older", "other"))
    last = node(said("newer", "mine"), said("newest", "mine"), parent=first)
    given = references(parent=last)
    assert await resolved(given, "mine", "other") == ["newest", "older"]


async def test_what_is_near_the_end_is_found_without_reading_all() -> None:
    long_ago = node(*[said("x" * 1000)] * 100)
    recent = node(said("here", "mine"), parent=long_ago)
    assert await resolved(references(parent=recent, most_bytes=1000), "mine") == ["here"]
    with pytest.raises(Refusal) as refused:
        await resolved(references(parent=recent, most_bytes=1000), "nowhere")
    assert refused.value.code == "context_length_exceeded"


async def test_short_items_cost_work_too() -> None:
    many = node(*[items_pb2.Item()] * 1000)
    with pytest.raises(Refusal) as refused:
        await resolved(references(parent=many, most_bytes=10_000), "nowhere")
    assert refused.value.code == "context_length_exceeded"


async def test_what_is_referred_to_may_not_be_longer_than_a_conversation() -> None:
    parent = node(said("x" * 900, "mine"))
    assert await resolved(references(parent=parent, most_bytes=1000), "mine")
    with pytest.raises(Refusal) as refused:
        await resolved(references(parent=parent, most_bytes=1000), "mine", "mine")
    assert refused.value.code == "context_length_exceeded"


async def test_only_so_many_references_are_resolved_at_once() -> None:
    parent = node(said("x", "mine"))
    assert len(await resolved(references(parent=parent), *["mine"] * 1024)) == 1024
    with pytest.raises(Refusal) as refused:
        await resolved(references(parent=parent), *["mine"] * 1025)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "input")


async def test_what_was_said_unstored_cannot_become_part_of_what_is_stored() -> None:
    unstored = node(said("secret"))
    name = ids.input_item_id("msg", unstored.id, 0)
    with pytest.raises(NotFound):
        await resolved(references(unstored, kind=DurableNode), name)


@pytest.mark.parametrize(
    "name",
    ["", "nowhere", ids.item_id("msg", ids.response_id(None), 0)],
    ids=["empty", "nowhere", "never given"],
)
async def test_what_is_not_there_is_not_found(name: str) -> None:
    with pytest.raises(NotFound) as refused:
        await resolved(references(parent=node(said("one"))), name)
    assert refused.value.code == "item_not_found"
