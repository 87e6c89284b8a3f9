"""Tips of conversations that no response made: items that a client added, or left when it took one out.

A tip is what the next turn continues. It looks like a response's node to that turn, and is kept with
its conversation only.
"""

import functools
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from service import ids
from service.compaction import estimate
from service.conversation import DurableNode, Node, Segment
from service.errors import Refusal
from service.paging import Names
from service.requests.references import References
from service.requests.request import begins_anew, check_size, pending_calls, tools_with
from service.store import StoredConversation
from turnwire.v1 import items_pb2, responses_pb2

_ITEMS = 20  # of one request


@dataclass(frozen=True, slots=True)
class Tips:
    """Makes tips."""

    legible: Callable[[str, Sequence[items_pb2.Item]], Sequence[items_pb2.Item]]
    """Makes a tenant's items what a model can be told. Raises `Refusal` if one cannot be opened."""
    find: Callable[[str, str], Awaitable[Node | None]]
    """Finds a tenant's stored response by its id."""
    most_bytes: int
    """The longest conversation, in bytes of its items."""
    admit: Callable[[str, Sequence[items_pb2.Item]], Awaitable[None]]
    """Raises `Refusal` for a tenant's legible items that its policy withholds."""

    async def understood(
        self,
        conversation: StoredConversation,
        items: Sequence[items_pb2.Item],
    ) -> Sequence[items_pb2.Item]:
        """Return items as they are to be kept, but for their ids: without references.

        Raises `Refusal` for too many, and `NotFound` for references to what is not there.
        """
        if len(items) > _ITEMS:
            raise Refusal("invalid_value", f"At most {_ITEMS} items may be added at once.", "items")
        find = functools.partial(self.find, conversation.tenant)
        references = References(find, conversation.tip, DurableNode, self.most_bytes)
        with _about("items"):
            found = await references.resolve(items)
            await self.admit(conversation.tenant, self.legible(conversation.tenant, found))
            return found

    def extended(
        self, conversation: StoredConversation, items: Sequence[items_pb2.Item]
    ) -> DurableNode:
        """Return the tip of a conversation with items at its end.

        Raises `Refusal` for what would be too long, for an output without its call, and for what
        cannot be opened.
        """
        base = None if begins_anew(items) else conversation.tip
        with _about("items"):
            create = responses_pb2.CreateResponse(input=items)
            check_size(create, conversation.tip, self.most_bytes)
            return self._tip(conversation, base, items)

    def rebuilt(
        self, conversation: StoredConversation, items: Sequence[items_pb2.Item]
    ) -> DurableNode:
        """Return the tip of a conversation of these items only.

        One segment holds them all, and nothing of it is rendered. Raises `Refusal` for an output
        that lost its call.
        """
        try:
            return self._tip(conversation, None, items)
        except Refusal as refusal:
            message = f"The item cannot be taken out: {refusal.message}"
            raise Refusal(refusal.code, message, "item_id") from None

    def _tip(
        self,
        conversation: StoredConversation,
        base: DurableNode | None,
        items: Sequence[items_pb2.Item],
    ) -> DurableNode:
        """Put items on what they continue."""
        legible = self.legible(conversation.tenant, items)
        parent_id = conversation.tip.id if conversation.tip else None
        return DurableNode(
            tenant=conversation.tenant,
            id=ids.response_id(conversation.tip.tree if conversation.tip else None),
            parent_id=parent_id,
            segment=Segment(base.segment if base else None, items),
            inputs=len(items),
            pending_calls=pending_calls(base.pending_calls if base else frozenset(), legible),
            tools=tools_with(legible, base.tools if base else None),
            tokens=(base.tokens if base else 0) + estimate(legible),
            response_data=b"",
            trace_data=b"",
            pinned=True,
        )


def names_in(conversation: StoredConversation) -> Names:
    """Return what gives all items of a conversation ids: the same whenever they are asked for."""
    name, unlisted = conversation.id.rpartition("_")[2], conversation.unlisted
    return Names(lambda prefix, index: f"{prefix}_{name}i{unlisted + index}")


@contextmanager
def _about(param: str) -> Iterator[None]:
    """Say of which member a refusal is: the rules of turns call all that is sent their input."""
    try:
        yield
    except Refusal as refusal:
        refusal.param = param
        raise
