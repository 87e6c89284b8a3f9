"""Items that stand for others: `item_reference` replaced by what it refers to.

An id that this server gave says where its item is (see `service.ids`); an id that a client gave is
looked for in the conversation.
"""

from collections.abc import Awaitable, Callable, Sequence

from service import ids
from service.conversation import Node, Segment
from service.errors import NotFound, Refusal
from service.paging import item_id_of
from turnwire.v1 import items_pb2

_READ_TIMES = 4
"""How many times the longest conversation may be read for the references of one request."""

Find = Callable[[str], Awaitable[Node | None]]
"""Finds a response of the tenant by its id."""


class References:
    """What the references of one request stand for.

    `kind` is the type of nodes that it may take items of: a request that will be stored may not make
    part of it what was said unstored.
    """

    def __init__(self, find: Find, parent: Node | None, kind: type[Node], most_bytes: int) -> None:
        self._find = find
        self._parent = parent
        self._kind = kind
        self._bytes_left = most_bytes
        self._bytes_to_read = _READ_TIMES * most_bytes
        self._read: tuple[Segment | None, Sequence[items_pb2.Item]] = (None, ())
        self._conversation: dict[str, items_pb2.Item] | None = None

    async def resolve(self, items: Sequence[items_pb2.Item]) -> Sequence[items_pb2.Item]:
        """Return the items with every reference replaced.

        Raises `NotFound`, and `Refusal` for references to more than a conversation may hold.
        """
        if not any(item.HasField("item_reference") for item in items):
            return items
        return [await self._resolved(item) for item in items]

    async def _resolved(self, item: items_pb2.Item) -> items_pb2.Item:
        if not item.HasField("item_reference"):
            return item
        item_id = item.item_reference.id
        found = await self._at_its_place(item_id) or self._in_conversation(item_id)
        if found is None:
            raise NotFound(
                "item_not_found",
                f"Item with id '{item_id[:64]}' not found. Items of responses with store=false can be "
                "referred to only by what continues them: send the item itself.",
                "input",
            )
        self._bytes_left -= found.ByteSize()
        if self._bytes_left < 0:
            raise _too_long()
        return found

    async def _at_its_place(self, item_id: str) -> items_pb2.Item | None:
        if (place := ids.place_of(item_id)) is None:
            return None
        node = await self._find(place.response_id)
        if not isinstance(node, self._kind):
            return None
        items = self._items(node.segment)
        index = place.number if place.part == "i" else node.inputs + place.number
        return items[index] if index < len(items) else None

    def _items(self, segment: Segment) -> Sequence[items_pb2.Item]:
        """Parse a segment, unless it is the one that was parsed last: references come in runs."""
        if self._read[0] is not segment:
            self._bytes_to_read -= segment.weight
            if self._bytes_to_read < 0:
                raise _too_long()
            self._read = (segment, segment.items)
        return self._read[1]

    def _in_conversation(self, item_id: str) -> items_pb2.Item | None:
        """Look for an item in what the request continues; of several with one id take the newest."""
        if self._conversation is None:
            path = self._parent.segment.path() if self._parent else []
            items = (item for segment in path for item in segment.items)
            self._conversation = {item_id_of(item): item for item in items}
        return self._conversation.get(item_id)


def _too_long() -> Refusal:
    message = "The items that are referred to are too long together."
    return Refusal("context_length_exceeded", message, "input")
