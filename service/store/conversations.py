"""Where conversations live: one protocol, one suite of tests, and this process's memory.

A stored conversation is immutable: what changes is which one is kept under its id. Whoever changes
one says on which it builds, so that of two that change the same at once only one succeeds, on
whatever replica they run. All ids are looked up within a tenant.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from service.cache import SegmentCache
from service.conversation import DurableNode, Segment

_OVERHEAD = 1024
"""Bytes that a conversation weighs in Python beyond its contents, its lists of names included."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StoredConversation:
    """A conversation that has an id of its own, as it is at one time."""

    tenant: str
    id: str
    created_at: int
    """In seconds since 1970."""
    metadata: Mapping[str, str]
    tip: DurableNode | None = None
    """What the next turn continues; None while there are no items."""
    unlisted: int = 0
    """Items that have been taken out or superseded: they are counted, so that no id comes again."""
    revision: int = 0
    """How often it has been changed."""

    @property
    def parent_id(self) -> None:
        """Conversations do not continue each other."""
        return

    @property
    def segment(self) -> Segment | None:
        """The end of its items."""
        return self.tip.segment if self.tip else None

    @property
    def tip_id(self) -> str | None:
        """Which node that is: whoever changes the items changes this."""
        return self.tip.id if self.tip else None

    @property
    def weight(self) -> int:
        """Bytes of memory it holds beyond its segments, roughly."""
        pairs = sum(len(key) + len(value) for key, value in self.metadata.items())
        return _OVERHEAD + 4 * pairs + (self.tip.weight if self.tip else 0)


class ConversationStore(Protocol):
    """Keeps conversations."""

    async def get(self, tenant: str, conversation_id: str) -> StoredConversation | None:
        """Return a conversation with all its items, or None."""

    async def add(self, conversation: StoredConversation) -> None:
        """Keep a new conversation; it is durable when this returns."""

    async def replace(self, conversation: StoredConversation) -> bool:
        """Keep a conversation in the place of its last revision; tell whether that was still there."""

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        """Forget a conversation; tell whether it was there."""

    def expire(self) -> None:
        """Let go of what is too old. Called now and then; must be quick."""


class MemoryConversations:
    """The default store: this process's memory, within a budget. A restart forgets everything."""

    def __init__(self, cache: SegmentCache[StoredConversation]) -> None:
        self._cache = cache

    async def get(self, tenant: str, conversation_id: str) -> StoredConversation | None:
        """Return a conversation, and keep it longer for having been asked for."""
        return self._cache.get((tenant, conversation_id))

    async def add(self, conversation: StoredConversation) -> None:
        """Keep a new conversation for as long as the budget and its age allow."""
        self._cache.put(conversation)

    async def replace(self, conversation: StoredConversation) -> bool:
        """Keep a conversation in the place of its last revision; tell whether that was still there."""
        held = self._cache.get((conversation.tenant, conversation.id))
        if held is None or held.revision != conversation.revision - 1:
            return False
        self._cache.replace(conversation)
        return True

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        """Forget a conversation; tell whether it was there."""
        return self._cache.discard((tenant, conversation_id))

    def expire(self) -> None:
        """Let go of what has not been used for too long."""
        self._cache.expire()
