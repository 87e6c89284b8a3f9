"""Nodes in memory, within a budget of bytes, and whatever else stands on chains of links.

An agent reads each response about once, with its next turn, and never again: so nodes that have been
continued go first, then the least recently used. Links are shared between a node and all that continue
it; each is counted once and let go with the last node that needs it. Segments grow when a model server
renders them: what a turn has rendered is counted when that turn's node is put.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, Protocol, TypeVar

from service.conversation import Link, Node

Reason = Literal["superseded", "lru", "ttl"]
Key = tuple[str, str]
"""Tenant and response id: an id is worth nothing outside its tenant."""


class Weighed(Protocol):
    """Something that can be held: a name, and what it weighs."""

    @property
    def tenant(self) -> str:
        """Whose it is."""

    @property
    def id(self) -> str:
        """Its name within the tenant."""

    @property
    def parent_id(self) -> str | None:
        """What it continues, if that is of its kind."""

    @property
    def chains(self) -> Sequence[Link]:
        """The ends of what it stands on."""

    @property
    def weight(self) -> int:
        """Bytes of memory it holds beyond its chains, roughly."""


W = TypeVar("W", bound=Weighed)


@dataclass(slots=True)
class _Entry(Generic[W]):
    node: W
    weight: int
    used: float


@dataclass(slots=True)
class _Held:
    weight: int
    holders: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """What a cache may hold: bytes, and seconds since a node was last used."""

    budget: int
    ttl: float = float("inf")


@dataclass(slots=True)
class SegmentCache(Generic[W]):
    """An LRU that evicts what has been continued first. `clock` is monotonic, in seconds."""

    bounds: Bounds
    clock: Callable[[], float]
    evicted: Callable[[Reason], None] = lambda _: None
    """Told of every eviction."""
    bytes: int = 0
    """What the nodes and their chains weigh."""
    _tips: OrderedDict[Key, _Entry[W]] = field(default_factory=OrderedDict)
    _superseded: OrderedDict[Key, _Entry[W]] = field(default_factory=OrderedDict)
    _links: dict[Link, _Held] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._tips) + len(self._superseded)

    def get(self, key: Key) -> W | None:
        """Return a node, and keep it longer for having been asked for."""
        for entries in (self._tips, self._superseded):
            if (entry := entries.get(key)) is None:
                continue
            if self._expired(entry):
                self._evict(entries, key, "ttl")
                return None
            entry.used = self.clock()
            entries.move_to_end(key)
            return entry.node
        return None

    def put(self, node: W) -> None:
        """Keep a node. Whatever it continues is superseded. Putting a node again changes nothing."""
        key = (node.tenant, node.id)
        if key in self._tips or key in self._superseded:
            return
        if node.parent_id and (parent := self._tips.pop((node.tenant, node.parent_id), None)):
            self._superseded[node.tenant, node.parent_id] = parent
        entry = _Entry(node, node.weight, self.clock())
        self._tips[key] = entry
        self.bytes += entry.weight
        self._hold(node)
        self._make_room()

    def replace(self, node: W) -> None:
        """Keep a node in the place of the one with its key."""
        self._hold(node)  # what both stand on stays counted, and is not walked over
        self.discard((node.tenant, node.id))
        self.put(node)
        self._let_go(node)

    def discard(self, key: Key) -> bool:
        """Let go of a node; tell whether it was there."""
        for entries in (self._tips, self._superseded):
            if key in entries:
                self._remove(entries, key)
                return True
        return False

    def expire(self) -> None:
        """Let go of all nodes that have not been used for too long."""
        for entries in (self._superseded, self._tips):
            while entries and self._expired(next(iter(entries.values()))):
                self._evict(entries, next(iter(entries)), "ttl")

    def _make_room(self) -> None:
        self.expire()
        while self.bytes > self.bounds.budget and len(self) > 1:
            if self._superseded:
                self._evict(self._superseded, next(iter(self._superseded)), "superseded")
            else:
                self._evict(self._tips, next(iter(self._tips)), "lru")

    def _expired(self, entry: _Entry[W]) -> bool:
        return self.clock() - entry.used > self.bounds.ttl

    def _evict(self, entries: OrderedDict[Key, _Entry[W]], key: Key, reason: Reason) -> None:
        self._remove(entries, key)
        self.evicted(reason)

    def _remove(self, entries: OrderedDict[Key, _Entry[W]], key: Key) -> None:
        entry = entries.pop(key)
        self.bytes -= entry.weight
        self._let_go(entry.node)

    def _hold(self, node: W) -> None:
        """Count the links of a node's chains, as far as they are not counted yet."""
        for end in node.chains:
            link: Link | None = end
            while link is not None:
                if held := self._links.get(link):
                    held.holders += 1
                    self._weigh_again(link)
                    break
                self._links[link] = _Held(link.weight)
                self.bytes += self._links[link].weight
                link = link.parent

    def _weigh_again(self, link: Link | None) -> None:
        """Count what links have grown by since they were counted, back to one that has not grown.

        A model server renders all that it lacks of a chain at once: what is before that one was
        counted when it grew.
        """
        while link is not None:
            held, weight = self._links[link], link.weight
            if held.weight == weight:
                return
            self.bytes += weight - held.weight
            held.weight = weight
            link = link.parent

    def _let_go(self, node: W) -> None:
        """Stop counting the links of a node's chains, as far as nothing else needs them."""
        for end in node.chains:
            link: Link | None = end
            while link is not None:
                held = self._links[link]
                held.holders -= 1
                if held.holders:
                    break
                self.bytes -= held.weight
                del self._links[link]
                link = link.parent


class NodeCache(SegmentCache[Node]):
    """Keeps nodes."""
