"""Where what outlives connections is kept: a protocol each, a suite of tests each, several stores.

Nodes are immutable: nothing is ever changed in place. A stored conversation is immutable too: what
changes is which one is kept under its id. Whoever changes one says on which it builds, so that of two
that change the same at once only one succeeds, on whatever replica they run. All ids are looked up
within a tenant; absent, foreign and deleted are the same answer.

Every method of a store may raise `StoreUnavailable`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from service.conversation import DurableNode, Link, Segment
from service.errors import Overloaded, RateLimited

_OVERHEAD = 1024
"""Bytes that a conversation weighs in Python beyond its contents, its lists of names included."""


class StoreUnavailable(Overloaded):
    """The store cannot be reached, or not as durably as it is to be written. Later it may work."""

    def __init__(self) -> None:
        super().__init__(
            "store_unavailable",
            "What is stored cannot be reached now. Try again later; with store=false a turn needs no "
            "store, unless it continues a stored response.",
        )


class StoreFull(RateLimited):
    """The tenant keeps as much as it may."""

    def __init__(self) -> None:
        super().__init__(
            "As much is stored as may be. Delete responses, wait until some expire, or send store=false."
        )
        self.code = "storage_quota_exceeded"


class Store(Protocol):
    """Keeps the nodes of `store: true` responses."""

    async def get(self, tenant: str, response_id: str) -> DurableNode | None:
        """Return a node to be continued, with all it continues, or None."""

    async def confirm(self, node: DurableNode) -> bool:
        """Tell whether a node that a connection holds is still to be continued: it may be deleted."""

    async def retrieve(self, tenant: str, response_id: str) -> DurableNode | None:
        """Return a node to be looked at, with its response, its trace and its own items, or None."""

    async def put(self, node: DurableNode) -> DurableNode:
        """Keep a node; it is durable when this returns. Return it as it is to be continued.

        One that is there already stays as it is. Raises `StoreFull`.
        """

    async def amend(self, node: DurableNode) -> None:
        """Keep a node, in the place of the one with its id if there is one: it failed once it was kept."""

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Forget a node; tell whether it was there. What continued it can still be continued."""

    def check(self) -> None:
        """Raise `StoreUnavailable` at once if a put is known to fail now."""

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
        """Keep a new conversation; it is durable when this returns. Raises `StoreFull`."""

    async def replace(self, conversation: StoredConversation) -> bool:
        """Keep a conversation in the place of its last revision; tell whether that was still there.

        Raises `StoreFull`.
        """

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        """Forget a conversation; tell whether it was there."""

    def expire(self) -> None:
        """Let go of what is too old. Called now and then; must be quick."""


class CellName(NamedTuple):
    """What a cell is called: unique within its tenant and kind."""

    tenant: str
    kind: str
    """One of a few words of ours: no key of a store is made of what clients choose as it is."""
    name: str


class Cell(NamedTuple):
    """A few bytes that replicas share, as they are at one time."""

    revision: int
    """How often it has been written; 1 when it is new."""
    data: bytes


class Cells(Protocol):
    """Small things that replicas agree on, one writer at a time."""

    async def read(self, name: CellName) -> Cell | None:
        """Return a cell, or None."""

    async def write(self, name: CellName, cell: Cell, ttl: float) -> bool:
        """Write a cell for so many seconds, if what is there is of the revision before; tell whether it was.

        Revision 1 is written only where there is none.
        """

    async def drop(self, name: CellName) -> bool:
        """Forget a cell; tell whether it was there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stores:
    """Where what outlives connections is kept."""

    responses: Store
    conversations: ConversationStore
    cells: Cells
