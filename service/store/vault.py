"""What a durable store has to do: keep sealed records by tree, and cells. It cannot read either.

A conversation's tree is one unit of such a store. Records are immutable and point at what they continue,
so that a conversation of any length is fetched in one round trip: from a record back to its beginning,
or to the newest one that the caller holds already. A deleted record can neither be retrieved nor
continued; it stays on the path of those that continued it, and is erased with the last of them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from service.store import Cells, StoreUnavailable


class Record(NamedTuple):
    """A response, sealed."""

    id: str
    parent: str
    """The record that must be read before this one; empty if it stands alone."""
    path: bytes
    """What continues it needs: a `StoredPath`."""
    response: bytes
    """What can be retrieved of it: a `StoredResponse`; empty if no response made it."""
    pinned: bool = False
    """Whether it stays on the paths when it is deleted, also if nothing continued it yet."""

    @property
    def weight(self) -> int:
        """Bytes that it counts for."""
        return len(self.path) + len(self.response)


class Orphaned(Exception):
    """What a record continues is not in the vault any more: it can be put only so that it stands alone."""


class StoreExhausted(StoreUnavailable):
    """There is no room for anybody's record, and none is made by forgetting others'."""


class TreeSize(NamedTuple):
    """How much of a conversation's tree there is."""

    records: int
    bytes: int


class Step(NamedTuple):
    """A record on a path."""

    id: str
    parent: str
    path: bytes


@dataclass(frozen=True, slots=True)
class Path:
    """Records from the one that was asked for back to the beginning, or to one that is held."""

    steps: Sequence[Step]
    """The one that was asked for first. The last one's parent is empty, or one of those held."""
    size: TreeSize
    """Of the whole tree."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultLimits:
    """What a vault keeps, in seconds and bytes."""

    ttl: float = 86_400.0
    """Since a tree, or a cell, was last used."""
    path_records: int = 65_536
    path_bytes: int = 256 * 1024 * 1024
    """The longest path that is fetched; a longer one counts as absent."""


class Vault(Cells, Protocol):
    """Keeps sealed records. Every method may raise `StoreUnavailable`.

    Trees are called by tenant and `ids.root_of` their records' ids.
    """

    async def start(self) -> None:
        """Connect, and put in place what the vault needs.

        Raises `StoreUnavailable`; a note of it says what the operator can do.
        """

    async def stop(self) -> None:
        """Let go of all connections; what was acknowledged is safe."""

    async def put(self, tenant: str, record: Record, quota: int | None) -> TreeSize:
        """Keep a record for as long as its tree is used; it is durable when this returns.

        Putting the same again changes nothing; what was deleted stays deleted. The tenant may keep
        `quota` bytes, roughly: raises `StoreFull`. Raises `Orphaned` if what the record continues is gone.
        """

    async def amend(self, tenant: str, record: Record) -> None:
        """Keep a record, in the place of the one with its id if there is one; what was deleted stays so."""

    async def path(self, tenant: str, record_id: str, held: Collection[str]) -> Path | None:
        """Return the records that a conversation consists of: None if any of them is missing.

        `held` are a few ids of the same tree that the caller need not be told.
        """

    async def retrieve(self, tenant: str, record_id: str) -> Record | None:
        """Return one record."""

    async def delete(self, tenant: str, record_id: str) -> bool:
        """Forget a record; tell whether it was there."""

    def check(self) -> None:
        """Raise `StoreUnavailable` at once if a put is known to fail now."""

    def expire(self) -> None:
        """Let go of what is too old, where the vault does not do so by itself. Must be quick."""
