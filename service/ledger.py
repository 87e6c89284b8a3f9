"""What conversations weigh in memory: each part counted once, however many hold it.

A node stands on chains of links, which it shares with all that continue it. Segments grow when a model
server renders them: what a turn has rendered is counted when that turn's node is held.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from service.conversation import Link


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


class _Count:
    """How often something is held, and what it weighed when that was last looked at."""

    __slots__ = ("holders", "weight")

    def __init__(self, weight: int) -> None:
        self.weight = weight
        self.holders = 1


class Ledger:
    """Nodes that are held, and all they stand on.

    A link is held by the nodes that end in it and by the links that continue it, so that to hold or
    to let go of a node walks over as many links as are new, or were the last of their kind.
    """

    __slots__ = ("_links", "_nodes", "bytes")

    def __init__(self) -> None:
        self.bytes = 0
        """What all of it weighs."""
        self._nodes: dict[Weighed, _Count] = {}
        self._links: dict[Link, _Count] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def hold(self, node: Weighed) -> int:
        """Count a node once more; return by how much the bytes grew."""
        before = self.bytes
        if count := self._nodes.get(node):
            count.holders += 1
            for end in node.chains:
                self._weigh_again(end)
        else:
            self._nodes[node] = count = _Count(node.weight)
            self.bytes += count.weight
            for end in node.chains:
                self._hold_chain(end)
        return self.bytes - before

    def let_go(self, node: Weighed) -> int:
        """Count a node once less; return by how much the bytes shrank."""
        before, count = self.bytes, self._nodes[node]
        count.holders -= 1
        if not count.holders:
            del self._nodes[node]
            self.bytes -= count.weight
            for end in node.chains:
                self._let_chain_go(end)
        return before - self.bytes

    def _hold_chain(self, end: Link) -> None:
        """Count the links of a chain, as far as they are not counted yet."""
        link: Link | None = end
        while link is not None:
            if count := self._links.get(link):
                count.holders += 1
                self._weigh_again(link)
                return
            self._links[link] = count = _Count(link.weight)
            self.bytes += count.weight
            link = link.parent

    def _weigh_again(self, link: Link | None) -> None:
        """Count what links have grown by since they were counted, back to one that has not grown.

        A model server renders all that it lacks of a chain at once: what is before that one was
        counted when it grew.
        """
        while link is not None:
            count, weight = self._links[link], link.weight
            if count.weight == weight:
                return
            self.bytes += weight - count.weight
            count.weight = weight
            link = link.parent

    def _let_chain_go(self, end: Link) -> None:
        """Stop counting the links of a chain, as far as nothing else needs them."""
        link: Link | None = end
        while link is not None:
            count = self._links[link]
            count.holders -= 1
            if count.holders:
                return
            self.bytes -= count.weight
            del self._links[link]
            link = link.parent


def waterline(sizes: Iterable[int], total: int) -> int:
    """Return the most that each may have if all together may have `total` bytes.

    Whoever has less than an equal part leaves the rest to the others: one alone may have it all.
    """
    ascending = sorted(sizes)
    for index, size in enumerate(ascending):
        fair = total // (len(ascending) - index)
        if size > fair:
            return fair
        total -= size
    return ascending[-1] if ascending else 0
