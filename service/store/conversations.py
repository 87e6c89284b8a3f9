"""Conversations that outlive this process: a sealed cell each, which names the node it stands on.

The items are those of that node, which the store of responses keeps and fetches like any other.
"""

import dataclasses
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from service import ids
from service.conversation import DurableNode
from service.store import Cell, CellName, Cells, StoredConversation, StoreUnavailable, records
from service.store.durable import DurableStore
from service.store.envelopes import Envelopes, Unreadable
from turnwire.v1 import state_pb2

_KIND = "conversation"
_STALE = 1 / 4
"""Of its life: after so much a conversation that is read is written again, so that it lives on."""


class _Kept(NamedTuple):
    """A conversation as it was found."""

    revision: int
    conversation: state_pb2.StoredConversation


class DurableConversations:
    """Keeps conversations for `ttl` seconds since they were used. `clock` tells seconds since 1970."""

    def __init__(
        self,
        cells: Cells,
        store: DurableStore,
        envelopes: Envelopes,
        ttl: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cells = cells
        self._store = store
        self._envelopes = envelopes
        self._ttl = ttl
        self._clock = clock

    async def get(self, tenant: str, conversation_id: str) -> StoredConversation | None:
        """Return a conversation with all its items, and keep it longer for having been asked for."""
        if (kept := await self._read(tenant, conversation_id)) is None:
            return None
        tip, conversation = None, kept.conversation
        if conversation.tip_id:
            tip = await self._store.tip(tenant, conversation.tip_id)
            if tip is None:
                return None
        return StoredConversation(
            tenant=tenant,
            id=conversation_id,
            created_at=conversation.created_at,
            metadata=dict(conversation.metadata),
            tip=tip,
            unlisted=conversation.unlisted,
            revision=kept.revision,
        )

    async def add(self, conversation: StoredConversation) -> None:
        """Keep a new conversation; it is durable when this returns. Raises `StoreFull`."""
        await self.replace(conversation)

    async def replace(self, conversation: StoredConversation) -> bool:
        """Keep a conversation in the place of its last revision; tell whether that was still there.

        Raises `StoreFull`.
        """
        if conversation.tip:
            await self._keep(conversation.tip)
        kept = state_pb2.StoredConversation(
            version=records.VERSION,
            created_at=conversation.created_at,
            metadata=conversation.metadata,
            tip_id=conversation.tip_id or "",
            unlisted=conversation.unlisted,
        )
        return await self._write(conversation.tenant, conversation.id, conversation.revision, kept)

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        """Forget a conversation; tell whether it was there. What was said in it expires."""
        if not ids.is_conversation(conversation_id):
            return False
        return await self._cells.drop(CellName(tenant, _KIND, conversation_id))

    def expire(self) -> None:
        """Do nothing: cells expire where they are kept."""

    async def _keep(self, tip: DurableNode) -> None:
        if not self._store.holds(tip):
            await self._store.put(dataclasses.replace(tip, pinned=True))

    async def _read(self, tenant: str, conversation_id: str) -> _Kept | None:
        if not ids.is_conversation(conversation_id):
            return None
        cell = await self._cells.read(CellName(tenant, _KIND, conversation_id))
        if cell is None:
            return None
        try:
            opened = self._envelopes.conversation(tenant, conversation_id, cell)
        except Unreadable:
            return None
        return await self._refreshed(tenant, conversation_id, _Kept(cell.revision - 1, opened))

    async def _refreshed(self, tenant: str, conversation_id: str, kept: _Kept) -> _Kept:
        """Write a conversation again if that was long ago. Whoever changes it meanwhile does so, too."""
        if self._clock() - kept.conversation.written_at < self._ttl * _STALE:
            return kept
        written, after = False, kept.revision + 1
        with suppress(StoreUnavailable):
            written = await self._write(tenant, conversation_id, after, kept.conversation)
        return kept._replace(revision=after) if written else kept

    async def _write(
        self, tenant: str, name: str, revision: int, kept: state_pb2.StoredConversation
    ) -> bool:
        kept.written_at = int(self._clock())
        number = revision + 1  # a cell's first is 1
        data = self._envelopes.closed_conversation(tenant, name, number, kept)
        return await self._cells.write(CellName(tenant, _KIND, name), Cell(number, data), self._ttl)
