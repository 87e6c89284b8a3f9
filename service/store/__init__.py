"""Where stored responses and conversations live: a protocol each, a suite of tests each, several stores.

Nodes are immutable: nothing is ever changed in place. A stored conversation is immutable too: what
changes is which one is kept under its id. Whoever changes one says on which it builds, so that of two
that change the same at once only one succeeds, on whatever replica they run. All ids are looked up
within a tenant; absent, foreign and deleted are the same answer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from service.conversation import DurableNode, Link, Segment

_OVERHEAD = 1024
"""Bytes that a conversation weighs in Python beyond its contents, its lists of names included."""


class Store(Protocol):
    """Keeps the nodes of `store: true` responses."""

    async def get(self, tenant: str, response_id: str) -> DurableNode | None:
        """Return a node with all it continues, or None."""

    async def put(self, node: DurableNode) -> None:
        """Keep a node; it is durable when this returns.

        One that is there already stays as it is: to keep another under its id, delete it first.
        """

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Forget a node; tell whether it was there."""

    def expire(self) -> None:
        """Let go of what is too old. Called now and then; must be quick."""


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
    def chains(self) -> Sequence[Link]:
        """What it shares with the response that is its tip."""
        return self.tip.chains if self.tip else ()

    @property
    def tip_id(self) -> str | None:
        """Which node that is: whoever changes the items changes this."""
        return self.tip.id if self.tip else None

    @property
    def weight(self) -> int:
        """Bytes of memory it holds beyond its chains, roughly."""
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
