"""Nodes in memory, within a budget of bytes, and whatever else stands on chains of links.

An agent reads each response about once, with its next turn, and never again: so nodes that have been
continued go first, then the least recently used. Tenants have shelves of their own: where one holds
more than a fair share it gives way, not the others.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.conversation import Node
from service.ledger import Weighed, waterline
from service.pool import Entry, Pool, Reason, Row, Shelf, Standing, roomy

Key = tuple[str, str]
"""Tenant and response id: an id is worth nothing outside its tenant."""
W = TypeVar("W", bound=Weighed)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a cache may hold: bytes, and seconds since a node was last used."""

    budget: int
    ttl: float = float("inf")


@dataclass(slots=True, eq=False, repr=False)
class SegmentCache(Generic[W]):
    """An LRU that evicts what has been continued first. `clock` is monotonic, in seconds."""

    bounds: Bounds
    clock: Callable[[], float]
    evicted: Callable[[Reason], None] = lambda _: None
    """Told of every eviction."""
    pool: Pool = field(default_factory=lambda: Pool(sys.maxsize))
    """What it has its memory of, with other caches."""
    standing: Standing = Standing.SHARED
    bytes: int = 0
    """What the nodes and their chains weigh."""
    _shelves: dict[str, Shelf[W]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(len(shelf.tips) + len(shelf.superseded) for shelf in self._shelves.values())

    def get(self, key: Key) -> W | None:
        """Return a node, and keep it longer for having been asked for."""
        shelf = self._shelves.get(key[0])
        if shelf is None or (entry := shelf.find(key[1])) is None:
            return None
        if self._expired(entry):
            self._evict(shelf, entry, "ttl")
            return None
        entry.used = self.clock()
        shelf.touch(entry)
        return entry.node

    def put(self, node: W) -> None:
        """Keep a node. Whatever it continues is superseded. Putting a node again changes nothing.

        Room is made of what is there: the newest node stays, even if it is too big.
        """
        shelf = self._shelf(node.tenant)
        if shelf.find(node.id):
            return
        if node.parent_id:
            shelf.supersede(node.parent_id)
        self._hold(shelf, node)
        self._expire(shelf)
        self._make_room()
        self.pool.make_room()
        shelf.add(Entry(node, self.clock()))

    def offer(self, node: W) -> None:
        """Keep a node that can be had again, unless memory is short."""
        if not self.pool.tight:
            self.put(node)

    def replace(self, node: W) -> None:
        """Keep a node in the place of the one with its key."""
        shelf = self._shelf(node.tenant)
        self._hold(shelf, node)  # what both stand on stays counted, and is not walked over
        self.discard((node.tenant, node.id))
        self.put(node)
        self._let_go(shelf, node)

    def discard(self, key: Key) -> bool:
        """Let go of a node; tell whether it was there."""
        shelf = self._shelves.get(key[0])
        if shelf is None or (entry := shelf.find(key[1])) is None:
            return False
        self._remove(shelf, entry)
        return True

    def expire(self) -> None:
        """Let go of all nodes that have not been used for too long."""
        for shelf in list(self._shelves.values()):
            self._expire(shelf)

    def close(self) -> None:
        """Let go of all there is, and use no memory any more."""
        for shelf in self._shelves.values():
            shelf.share.forget(shelf)
            for row in (shelf.superseded, shelf.tips):
                for entry in row.values():
                    self.pool.let_go(entry.node)
            self.pool.let_go(shelf)
        self._shelves.clear()
        self.bytes = 0

    def _shelf(self, tenant: str) -> Shelf[W]:
        """Return the shelf of a tenant: it lasts for as long as there is something on it."""
        if (shelf := self._shelves.get(tenant)) is None:
            shelf = Shelf(tenant, self.pool.share(tenant), self.standing, self._evict)
            self.pool.hold(shelf)
            self._shelves[tenant] = shelf
        return shelf

    def _expire(self, shelf: Shelf[W]) -> None:
        for row in (shelf.superseded, shelf.tips):
            while row and self._expired(oldest := next(iter(row.values()))):
                self._evict(shelf, oldest, "ttl")

    def _expired(self, entry: Entry[W]) -> bool:
        return self.clock() - entry.used > self.bounds.ttl

    def _make_room(self) -> None:
        if self.bytes <= self.bounds.budget:
            return
        shelves = list(self._shelves.values())
        level = waterline((shelf.ledger.bytes for shelf in shelves), roomy(self.bounds.budget))
        for shelf in shelves:
            self._give_way(shelf, shelf.superseded, level, "superseded")
            self._give_way(shelf, shelf.tips, level, "lru")

    def _give_way(self, shelf: Shelf[W], row: Row[W], level: int, reason: Reason) -> None:
        while shelf.ledger.bytes > level and shelf.give(row, reason):
            pass

    def _evict(self, shelf: Shelf[W], entry: Entry[W], reason: Reason) -> None:
        self._remove(shelf, entry)
        self.evicted(reason)

    def _remove(self, shelf: Shelf[W], entry: Entry[W]) -> None:
        shelf.remove(entry)
        self._let_go(shelf, entry.node)

    def _hold(self, shelf: Shelf[W], node: W) -> None:
        self.bytes += shelf.ledger.hold(node)
        self.pool.hold(node)

    def _let_go(self, shelf: Shelf[W], node: W) -> None:
        self.bytes -= shelf.ledger.let_go(node)
        self.pool.let_go(node)
        if not shelf.ledger:
            self.pool.let_go(self._shelves.pop(node.tenant))


class NodeCache(SegmentCache[Node]):
    """Keeps nodes."""
