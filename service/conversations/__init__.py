"""Conversations as things of their own: a list of items under an id that does not change.

A response that is made in one continues its tip and becomes the new tip; clients add items and take
items out in between. The items are those on the path of the tip's segments: a compaction cuts that
path, so from then on the list begins there. What an item is called depends on those before it: reading a
list parses it from its beginning, segment by segment, however short the page.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from weakref import WeakValueDictionary

from service import ids
from service.conversation import DurableNode
from service.conversations.tips import Tips, names_in
from service.errors import Conflict, NotFound
from service.paging import Names, Page, Paging, item_id_of, list_of, shown
from service.reading import slices
from service.requests.request import check_metadata
from service.store import ConversationStore, StoredConversation
from turnwire.v1 import conversation_service_pb2 as rpc
from turnwire.v1 import items_pb2

_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class Joined:
    """A conversation that a turn holds. A turn that fails leaves it as it was by doing nothing."""

    tip: DurableNode | None
    """What the turn continues; None where there are no items yet."""
    advance: Callable[[DurableNode], Awaitable[None]]
    """Makes the turn's node the tip, once that is kept. Does nothing if the conversation is deleted.

    Raises `Conflict` if another replica's turn came first."""


class Conversations:
    """The conversations of all tenants. Absent, foreign and deleted ones raise the same `NotFound`."""

    def __init__(self, store: ConversationStore, tips: Tips) -> None:
        self._store = store
        self._tips = tips
        self._held: set[tuple[str, str]] = set()
        self._reading = WeakValueDictionary[str, asyncio.Lock]()

    async def create(self, tenant: str, request: rpc.CreateConversationRequest) -> rpc.Conversation:
        """Begin a conversation."""
        check_metadata(request.metadata)
        conversation = StoredConversation(
            tenant=tenant,
            id=ids.draw("conv"),
            created_at=int(time.time()),
            metadata=dict(request.metadata),
        )
        if found := await self._tips.understood(conversation, request.items):
            items = list(map(names_in(conversation).named, found))
            conversation = replace(conversation, tip=self._tips.extended(conversation, items))
        await self._store.add(conversation)
        return _told(conversation)

    async def get(self, tenant: str, conversation_id: str) -> rpc.Conversation:
        """Return a conversation."""
        return _told(await self._find(tenant, conversation_id))

    async def update(self, tenant: str, request: rpc.UpdateConversationRequest) -> rpc.Conversation:
        """Replace a conversation's metadata, also while a response is being made in it."""
        check_metadata(request.metadata)
        metadata = dict(request.metadata)
        return _told(
            await self._change(
                tenant, request.conversation_id, lambda now: replace(now, metadata=metadata)
            )
        )

    async def delete(self, tenant: str, conversation_id: str) -> rpc.DeleteConversationResponse:
        """Delete a conversation. A response that is being made in it ends as it would have."""
        if not await self._store.delete(tenant, conversation_id):
            raise _not_found()
        return rpc.DeleteConversationResponse(
            id=conversation_id, object="conversation.deleted", deleted=True
        )

    async def items(self, tenant: str, conversation_id: str, page: Page) -> items_pb2.ItemList:
        """Return a page of a conversation's items."""
        paging = Paging(page)
        conversation = await self._find(tenant, conversation_id)
        async with aclosing(self._items(conversation, names_in(conversation))) as items:
            async for item in items:
                if not paging.take(item):
                    break
        return paging.listed()

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> items_pb2.Item:
        """Return an item of a conversation, by the id it is listed under."""
        conversation = await self._find(tenant, conversation_id)
        async with aclosing(self._items(conversation, names_in(conversation))) as items:
            async for item in items:
                if item_id_of(item) == item_id:
                    return shown(item)
        raise _no_item()

    async def add_items(self, tenant: str, request: rpc.CreateItemsRequest) -> items_pb2.ItemList:
        """Add items at the end of a conversation; return them, each with its id."""
        async with self._hold(tenant, request.conversation_id) as held:
            found = await self._tips.understood(held, request.items)
            items = list(map((await self._names(held)).named, found))
            if items:
                await self._move(held, self._tips.extended(held, items))
        return list_of(items)

    async def delete_item(
        self, tenant: str, conversation_id: str, item_id: str
    ) -> rpc.Conversation:
        """Take an item out of a conversation: rare, for all that is left is parsed and made anew."""
        async with self._hold(tenant, conversation_id) as held:
            async with aclosing(self._items(held, names_in(held))) as items:
                every = [item async for item in items]
            left = [item for item in every if item_id_of(item) != item_id]
            if len(left) == len(every):
                raise _no_item()
            tip = self._tips.rebuilt(held, left) if left else None
            return _told(await self._put(held, tip, 1))

    @asynccontextmanager
    async def join(self, tenant: str, conversation_id: str) -> AsyncIterator["Joined"]:
        """Hold a conversation for one turn.

        Raises `NotFound`, and `Conflict` while another turn, or a change of its items, holds it.
        """
        async with self._hold(tenant, conversation_id) as held:
            yield Joined(held.tip, partial(self._advance, held))

    def expire(self) -> None:
        """Let go of what is too old."""
        self._store.expire()

    @asynccontextmanager
    async def _hold(self, tenant: str, conversation_id: str) -> AsyncIterator[StoredConversation]:
        """Keep everybody else from changing a conversation's items."""
        key = (tenant, conversation_id)
        await self._find(*key)  # what is not there is not held either
        if key in self._held:
            raise _locked()
        self._held.add(key)
        try:
            yield await self._find(*key)
        finally:
            self._held.discard(key)

    async def _find(self, tenant: str, conversation_id: str) -> StoredConversation:
        if conversation := await self._store.get(tenant, conversation_id):
            return conversation
        raise _not_found()

    async def _items(
        self, conversation: StoredConversation, names: Names
    ) -> AsyncGenerator[items_pb2.Item, None]:
        """Tell all of a conversation's items, each with an id. Has to be closed."""
        path = conversation.segment.path() if conversation.segment else []
        # A parsed segment may take much memory: a tenant has one at a time.
        reading = self._reading.setdefault(conversation.tenant, asyncio.Lock())
        async with reading, aclosing(slices(segment.items for segment in path)) as parsed:
            async for items in parsed:
                for item in items:
                    yield names.named(item)

    async def _names(self, conversation: StoredConversation) -> Names:
        """Return what gives the items that follow a conversation's own their ids."""
        names = names_in(conversation)
        async with aclosing(self._items(conversation, names)) as items:
            async for _ in items:
                pass
        return names

    async def _advance(self, held: StoredConversation, tip: DurableNode) -> None:
        with suppress(NotFound):
            await self._move(held, tip)

    async def _move(self, held: StoredConversation, tip: DurableNode) -> None:
        """Put a longer conversation in the place of one that is held, or one that it compacts to."""
        superseded = held.segment.count if held.segment else 0
        continues = tip.segment.parent is held.segment
        await self._put(held, tip, 0 if continues else superseded)

    async def _put(
        self, held: StoredConversation, tip: DurableNode | None, gone: int
    ) -> StoredConversation:
        """Give a conversation another tip, from which so many of its items cannot be reached."""

        def moved(now: StoredConversation) -> StoredConversation:
            if now.tip_id != held.tip_id:
                raise _locked()
            return replace(now, tip=tip, unlisted=now.unlisted + gone)

        return await self._change(held.tenant, held.id, moved)

    async def _change(
        self,
        tenant: str,
        conversation_id: str,
        changed: Callable[[StoredConversation], StoredConversation],
    ) -> StoredConversation:
        """Change a conversation; anew, where somebody else has changed something else meanwhile."""
        for _ in range(_ATTEMPTS):
            now = await self._find(tenant, conversation_id)
            after = replace(changed(now), revision=now.revision + 1)
            if await self._store.replace(after):
                return after
        raise _locked()


def _told(conversation: StoredConversation) -> rpc.Conversation:
    return rpc.Conversation(
        id=conversation.id,
        object="conversation",
        created_at=conversation.created_at,
        metadata=conversation.metadata,
    )


def _no_item() -> NotFound:
    return NotFound("not_found", "The conversation has no item with this id.", "item_id")


def _not_found() -> NotFound:
    return NotFound("not_found", "There is no conversation with this id.", "conversation_id")


def _locked() -> Conflict:
    message = "The conversation is being changed. Try again when the response made in it has ended."
    return Conflict("conversation_locked", message, "conversation_id")
