"""Items that stand for others: `item_reference` replaced by what it refers to.

An id that this server gave says where its item is (see `service.ids`); an id that a client gave is
looked for in the conversation, from its end. Everything is read once, whatever the order of references.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import aclosing

from service import ids
from service.conversation import Node, Segment
from service.errors import NotFound, Refusal
from service.paging import item_id_of
from service.reading import slices
from turnwire.v1 import items_pb2

_REFERENCES = 1024  # of one request
_READ_TIMES = 4
"""How many times the longest conversation may be read for the references of one request."""
_BYTES_AN_ITEM = 256
"""To read an item takes as long as so many bytes more, however short it is."""

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

    async def resolve(self, items: Sequence[items_pb2.Item]) -> Sequence[items_pb2.Item]:
        """Return the items with every reference replaced.

        Raises `NotFound`, and `Refusal` for too many references, or to more than a conversation may hold.
        """
        wanted = [item.item_reference.id for item in items if item.HasField("item_reference")]
        if not wanted:
            return items
        if len(wanted) > _REFERENCES:
            message = f"At most {_REFERENCES} items may be referred to at once: send the others."
            raise Refusal("invalid_value", message, "input")
        found = await self._found(set(wanted))
        return [self._resolved(item, found) for item in items]

    def _resolved(
        self, item: items_pb2.Item, found: Mapping[str, items_pb2.Item]
    ) -> items_pb2.Item:
        if not item.HasField("item_reference"):
            return item
        item_id = item.item_reference.id
        if (referred := found.get(item_id)) is None:
            raise NotFound(
                "item_not_found",
                f"Item with id '{item_id[:64]}' not found. Items of responses with store=false can be "
                "referred to only by what continues them: send the item itself.",
                "input",
            )
        self._bytes_left -= referred.ByteSize()
        if self._bytes_left < 0:
            raise _too_long()
        return referred

    async def _found(self, wanted: AbstractSet[str]) -> Mapping[str, items_pb2.Item]:
        found = await self._at_their_places(wanted)
        named = wanted - found.keys() - {""}  # items without an id have no name to be called by
        return {**found, **await self._in_conversation(named)}

    async def _at_their_places(self, wanted: AbstractSet[str]) -> dict[str, items_pb2.Item]:
        """Look items up whose ids say where they are, response by response."""
        places = defaultdict[str, dict[str, ids.Place]](dict)
        for item_id in wanted:
            if place := ids.place_of(item_id):
                places[place.response_id][item_id] = place
        found: dict[str, items_pb2.Item] = {}
        for response_id, named in places.items():
            if isinstance(node := await self._find(response_id), self._kind):
                self._afford(node.segment)
                found |= _taken(node, named)
                await asyncio.sleep(0)
        return found

    async def _in_conversation(self, wanted: AbstractSet[str]) -> dict[str, items_pb2.Item]:
        """Look for items in what the request continues; of several with one id take the newest."""
        found: dict[str, items_pb2.Item] = {}
        if not wanted:
            return found
        async with aclosing(slices(self._backwards())) as newest_first:
            async for items in newest_first:
                for item in items:
                    if (item_id := item_id_of(item)) in wanted and item_id not in found:
                        found[item_id] = _copy(item)
                if len(found) == len(wanted):
                    break
        return found

    def _backwards(self) -> Iterator[Sequence[items_pb2.Item]]:
        """Parse the conversation, the newest items first."""
        segment = self._parent.segment if self._parent else None
        while segment is not None:
            self._afford(segment)
            yield segment.items[::-1]
            segment = segment.parent

    def _afford(self, segment: Segment) -> None:
        """Count the work of reading a segment. Raises `Refusal` if that is too much."""
        length, count = segment.length, segment.count
        if segment.parent:
            length, count = length - segment.parent.length, count - segment.parent.count
        self._bytes_to_read -= length + count * _BYTES_AN_ITEM
        if self._bytes_to_read < 0:
            raise _too_long()


def _taken(node: Node, places: Mapping[str, ids.Place]) -> dict[str, items_pb2.Item]:
    """Take items of a response from their places, as far as there are such."""
    items = node.segment.items
    taken = {}
    for item_id, place in places.items():
        index = place.number if place.part == "i" else node.inputs + place.number
        # an id of another kind of item was never given
        if index < len(items) and (item_id_of(items[index]) or item_id) == item_id:
            taken[item_id] = _copy(items[index])
    return taken


def _copy(item: items_pb2.Item) -> items_pb2.Item:
    """Return an item that does not keep all that was parsed with it."""
    copy = items_pb2.Item()
    copy.CopyFrom(item)
    return copy


def _too_long() -> Refusal:
    message = "The items that are referred to are too long together."
    return Refusal("context_length_exceeded", message, "input")
