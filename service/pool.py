"""The memory that all caches of a process share, and who gives way when it is full.

The tenant that holds the most gives way first, down to what is a fair share of so many tenants; one
alone may use all. Within it go first the nodes that have been continued, whichever cache they are in;
then what process-wide caches hold, which can be had again from a store that lasts; then what
connections hold, those first that have not been used for longest. What a turn that runs continues
stays: the turn holds it anyway, so that to let go of it would free nothing.
"""

import enum
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from service.ledger import Ledger, Weighed, waterline

Reason = Literal["superseded", "lru", "ttl", "quota", "pressure"]
"""Why a node went: its cache was full (of continued nodes, or of others), it was too old, all caches
together were full, or the process was short of memory."""
W = TypeVar("W", bound=Weighed)

_BULK = 4 * 1024 * 1024
"""Bytes that are freed at once, so that not every turn has to look for some. More would be a pause."""
_PART = 20
"""The same for small budgets: one part in so many."""


class Standing(enum.Enum):
    """Whose a cache is."""

    SHARED = enum.auto()
    """The process's: all connections look into it."""
    OWN = enum.auto()
    """A connection's: what only it holds is lost to its client with it."""


@dataclass(slots=True)
class Entry(Generic[W]):
    """A node on a shelf. `used` is when, in seconds."""

    node: W
    used: float


Row: TypeAlias = OrderedDict[str, Entry[W]]
"""Nodes by id, the least recently used first."""


class Shelf(Generic[W]):
    """What one cache holds of one tenant. `evict` lets go of a node in that cache.

    It takes memory itself: a tenant with many connections that say little has many of them.
    """

    __slots__ = ("evict", "ledger", "share", "standing", "superseded", "tenant", "tips")

    id = ""
    parent_id = None
    chains = ()
    weight = 1536
    """Bytes of memory with its cache, roughly."""

    def __init__(
        self,
        tenant: str,
        share: "Share",
        standing: Standing,
        evict: "Callable[[Shelf[W], Entry[W], Reason], None]",
    ) -> None:
        self.tenant = tenant
        self.share = share
        self.standing = standing
        self.evict = evict
        self.ledger = Ledger()
        self.tips: Row[W] = OrderedDict()
        """What nothing has continued."""
        self.superseded: Row[W] = OrderedDict()

    def find(self, node_id: str) -> Entry[W] | None:
        """Return what is held of a node."""
        return self.tips.get(node_id) or self.superseded.get(node_id)

    def add(self, entry: Entry[W]) -> None:
        """Hold a node that has been counted."""
        self.tips[entry.node.id] = entry
        self.share.used(self)

    def touch(self, entry: Entry[W]) -> None:
        """Hold a node longer: it was asked for."""
        self._row(entry).move_to_end(entry.node.id)
        self.share.used(self)

    def supersede(self, node_id: str) -> None:
        """Hold a node as one that has been continued, if it is held."""
        if entry := self.tips.pop(node_id, None):
            self.superseded[node_id] = entry
            self.share.superseding(self)

    def remove(self, entry: Entry[W]) -> None:
        """Hold a node no longer."""
        del self._row(entry)[entry.node.id]
        self.share.thinned(self)

    def give(self, row: Row[W], reason: Reason) -> bool:
        """Let go of the oldest node of a row that no turn needs; tell whether there was any."""
        for _ in range(len(row)):
            entry = next(iter(row.values()))
            if not self.share.needs(entry.node):
                self.evict(self, entry, reason)
                return True
            row.move_to_end(entry.node.id)
        return False

    def _row(self, entry: Entry[W]) -> Row[W]:
        return self.tips if entry.node.id in self.tips else self.superseded


AnyShelf: TypeAlias = Shelf[Any]
_Shelves: TypeAlias = OrderedDict[AnyShelf, None]


class Share:
    """What all caches hold of one tenant: their shelves, the least recently used first."""

    __slots__ = ("_in_use", "_own", "_shared", "_superseded", "ledger")

    def __init__(self) -> None:
        self.ledger = Ledger()
        self._superseded: _Shelves = OrderedDict()
        """Those with nodes that have been continued."""
        self._shared: _Shelves = OrderedDict()
        """Those of process-wide caches with others; there are two at most."""
        self._own: _Shelves = OrderedDict()
        """The same of connections'."""
        self._in_use: dict[Weighed, int] = {}

    def used(self, shelf: AnyShelf) -> None:
        """Something on a shelf was asked for, or is new there."""
        if shelf.tips:
            tips = self._tips(shelf)
            tips[shelf] = None
            tips.move_to_end(shelf)

    def superseding(self, shelf: AnyShelf) -> None:
        """Something on a shelf has been continued."""
        self._superseded[shelf] = None
        self._superseded.move_to_end(shelf)
        self.thinned(shelf)

    def thinned(self, shelf: AnyShelf) -> None:
        """A row of a shelf has become shorter."""
        if not shelf.tips:
            self._tips(shelf).pop(shelf, None)
        if not shelf.superseded:
            self._superseded.pop(shelf, None)

    def forget(self, shelf: AnyShelf) -> None:
        """A shelf is not used any more."""
        self._tips(shelf).pop(shelf, None)
        self._superseded.pop(shelf, None)

    def needs(self, node: Weighed) -> bool:
        """Whether a turn that runs continues a node."""
        return node in self._in_use

    def use(self, node: Weighed) -> None:
        """Keep a node until it is released as often as it was used."""
        self._in_use[node] = self._in_use.get(node, 0) + 1

    def release(self, node: Weighed) -> None:
        """A turn that continued a node has ended."""
        self._in_use[node] -= 1
        if not self._in_use[node]:
            del self._in_use[node]

    def give_way(self, level: int, reason: Reason) -> None:
        """Let go of nodes until they weigh no more than `level`, or all that are left are needed."""
        self._give(self._superseded, _first, _superseded_of, level, reason)
        self._give(self._shared, _stalest, _tips_of, level, reason)
        self._give(self._own, _first, _tips_of, level, reason)

    def _give(
        self,
        shelves: _Shelves,
        pick: Callable[[_Shelves], AnyShelf],
        row: Callable[[AnyShelf], Row[Any]],
        level: int,
        reason: Reason,
    ) -> None:
        spared: list[AnyShelf] = []
        while shelves and self.ledger.bytes > level:
            shelf = pick(shelves)
            if not shelf.give(row(shelf), reason):
                del shelves[shelf]
                spared.append(shelf)
        for shelf in spared:
            shelves[shelf] = None

    def _tips(self, shelf: AnyShelf) -> _Shelves:
        return self._own if shelf.standing is Standing.OWN else self._shared


class Pool:
    """What all caches hold of all tenants."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        """Bytes that they may hold."""
        self.bytes = 0
        """Bytes that they hold."""
        self.tight = False
        """Whether the process is short of memory: then nothing is taken in that can be had again."""
        self._shares: dict[str, Share] = {}

    def share(self, tenant: str) -> Share:
        """Return a tenant's part."""
        if (share := self._shares.get(tenant)) is None:
            share = self._shares[tenant] = Share()
        return share

    def held(self, tenant: str) -> int:
        """Return the bytes of a tenant's nodes."""
        return self._shares[tenant].ledger.bytes if tenant in self._shares else 0

    def hold(self, node: Weighed) -> None:
        """Count a node for one more that holds it."""
        self.bytes += self.share(node.tenant).ledger.hold(node)

    def let_go(self, node: Weighed) -> None:
        """Count a node for one less that holds it."""
        share = self._shares[node.tenant]
        self.bytes -= share.ledger.let_go(node)
        if not share.ledger:
            del self._shares[node.tenant]

    @contextmanager
    def using(self, node: Weighed) -> Iterator[None]:
        """Keep a node: a turn continues it. It is counted also where no cache has it any more."""
        self.hold(node)
        share = self._shares[node.tenant]
        share.use(node)
        try:
            yield
        finally:
            share.release(node)
            self.let_go(node)

    def make_room(self) -> None:
        """Have tenants give way if all together hold too much: those that hold the most, in bulk."""
        if self.bytes <= self.budget:
            return
        shares = list(self._shares.values())
        level = waterline((share.ledger.bytes for share in shares), roomy(self.budget))
        for share in shares:
            if share.ledger.bytes > level:
                share.give_way(level, "pressure" if self.tight else "quota")


def roomy(budget: int) -> int:
    """Return how much is to be left where a budget was exceeded: a little less, for what comes next."""
    return budget - min(budget // _PART, _BULK)


def _first(shelves: _Shelves) -> AnyShelf:
    return next(iter(shelves))


def _stalest(shelves: _Shelves) -> AnyShelf:
    """Return the shelf with the node that has not been used for longest. They have one clock."""
    return min(shelves, key=lambda shelf: next(iter(shelf.tips.values())).used)


def _superseded_of(shelf: AnyShelf) -> Row[Any]:
    return shelf.superseded


def _tips_of(shelf: AnyShelf) -> Row[Any]:
    return shelf.tips
