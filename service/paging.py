"""Lists of items: an id for every item, and a page at a time.

Pure: it never waits, reads a clock or draws a random number.
"""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from service.errors import Refusal
from service.requests.messages import put_in_parts
from turnwire import strict_json
from turnwire.v1 import items_pb2

_MOST = 100
_USUAL = 20
_ORDERS = ("asc", "desc")
_PREFIXES = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
    "compaction": "cmp",
    "additional_tools": "at",
}
_PREFIX = "item"
"""For all other kinds."""
_WITH_STATUS = {"message", "function_call", "function_call_output"}

Draw = Callable[[str, int], str]
"""Makes an id of a prefix and an item's place in its list; always the same for the same two."""


class Page(NamedTuple):
    """Which part of a list is asked for."""

    after: str = ""
    """Only items after the one with this id; all of them if it is empty."""
    limit: int = 0
    """At most this many, 1 to 100; 20 when 0."""
    order: str = ""
    """"asc" or "desc"; "desc" when empty."""


class Paging:
    """A page of a list that is told from its beginning, item by item, each with an id.

    It holds no more items than fit on the page.
    """

    def __init__(self, page: Page) -> None:
        """Raises `Refusal` for a page that cannot be."""
        self._limit, self._ascending = _limit(page), _order(page) == "asc"
        self._after = page.after
        self._missing = bool(page.after)
        self._items: deque[items_pb2.Item] = deque(maxlen=self._limit + 1)

    def take(self, item: items_pb2.Item) -> bool:
        """Look at the next item; tell whether more have to be looked at."""
        if self._missing and item_id_of(item) == self._after:
            self._missing = False
            return self._ascending
        if not (self._missing and self._ascending):
            self._items.append(item)
        return not self._ascending or len(self._items) <= self._limit

    def listed(self) -> items_pb2.ItemList:
        """Return the page. Raises `Refusal` if there was no item to begin after."""
        if self._missing:
            message = "'after' must be the id of an item of the list."
            raise Refusal("invalid_value", message, "after")
        ordered = self._items if self._ascending else reversed(self._items)
        listed = list_of(list(ordered)[: self._limit])
        listed.has_more = len(self._items) > self._limit
        return listed


def page_of(items: Iterable[items_pb2.Item], page: Page) -> items_pb2.ItemList:
    """Return a page of items, which are given in the order of their conversation, each with an id.

    Raises `Refusal` for a page that cannot be: there is no item to begin after, for instance.
    """
    paging = Paging(page)
    for item in items:
        if not paging.take(item):
            break
    return paging.listed()


def list_of(items: Sequence[items_pb2.Item]) -> items_pb2.ItemList:
    """Return items, each with an id, as the protocol lists them: all of them, on one page."""
    listed = items_pb2.ItemList(object="list", items=map(shown, items))
    if items:
        listed.first_id, listed.last_id = item_id_of(items[0]), item_id_of(items[-1])
    return listed


def shown(item: items_pb2.Item) -> items_pb2.Item:
    """Return an item as the protocol shows what it holds: with a status, its content in parts.

    Clients may send neither, and released ones that read a list count on both.
    """
    kind = item.WhichOneof("kind")
    if kind not in _WITH_STATUS:
        return item
    copy = items_pb2.Item()
    copy.CopyFrom(item)
    body = getattr(copy, kind)
    body.status = body.status or "completed"
    if kind == "message":
        put_in_parts(copy.message)
    return copy


class Names:
    """Gives the items of a list, told from its beginning, an id each, no two alike.

    An item keeps its own unless it has none, or an earlier item has the same: ids that clients put
    on items are data. What an item is called depends on it and on those before it, nothing else.
    References must have been resolved: the id they hold is not theirs.
    """

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self._taken: set[str] = set()
        self._index = 0

    def named(self, item: items_pb2.Item) -> items_pb2.Item:
        """Return the next item with its id."""
        own = item_id_of(item)
        free = own and own not in self._taken
        name = own if free else _free(self._draw(prefix_of(item), self._index), self._taken)
        self._taken.add(name)
        self._index += 1
        return item if name == own else with_id(item, name)


def identified(items: Iterable[items_pb2.Item], draw: Draw) -> Sequence[items_pb2.Item]:
    """Return all items of a list with an id each, no two alike, as `Names` gives them."""
    names = Names(draw)
    return [names.named(item) for item in items]


def item_id_of(item: items_pb2.Item) -> str:
    """Return an item's own id; empty if it has none."""
    if (kind := _declared(item)) is not None:
        return str(getattr(item, kind).id)
    own = _members(item).get("id")
    return own if isinstance(own, str) else ""


def with_id(item: items_pb2.Item, item_id: str) -> items_pb2.Item:
    """Return a copy of an item, of whatever kind, that has this id."""
    kind = _declared(item)
    if kind is None:
        members = {**_members(item), "id": item_id}
        return items_pb2.Item(other_json=strict_json.dump(members).decode())
    copy = items_pb2.Item()
    copy.CopyFrom(item)
    getattr(copy, kind).id = item_id
    return copy


def _declared(item: items_pb2.Item) -> str | None:
    """Return the item's kind, if the contract knows it."""
    kind = item.WhichOneof("kind")
    return None if kind == "other_json" else kind


def _members(item: items_pb2.Item) -> dict[str, Any]:
    return strict_json.parse_object(item.other_json or "{}")


def prefix_of(item: items_pb2.Item) -> str:
    """Return what an item's id begins with, by its kind."""
    return _PREFIXES.get(item.WhichOneof("kind") or "", _PREFIX)


def _free(name: str, taken: set[str]) -> str:
    """Make a drawn id differ from all: a client may have put the very same on an item of its own."""
    while name in taken:
        name += "_"
    return name


def _limit(page: Page) -> int:
    if not 0 <= page.limit <= _MOST:
        raise Refusal("invalid_value", f"'limit' must be between 1 and {_MOST}.", "limit")
    return page.limit or _USUAL


def _order(page: Page) -> str:
    order = page.order or "desc"
    if order not in _ORDERS:
        raise Refusal("invalid_value", "'order' must be one of 'asc', 'desc'.", "order")
    return order
