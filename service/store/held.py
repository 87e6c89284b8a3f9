"""Nodes of a durable store that were used lately, and what is known of their trees.

Losing any of it costs a fetch. What another replica deleted is found out once a node is not fresh any more.
"""

import dataclasses
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from service import ids
from service.cache import Key, NodeCache
from service.conversation import DurableNode
from service.limits import MIB
from service.newest import Newest
from service.store.vault import TreeSize

_NEWEST = 8
"""Nodes of a tree that are offered to continue from: the newest are the nearest."""
_TREES = 16_384
_NODES = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeLimits:
    """How large a conversation's tree may become, in bytes and records, before another one is begun.

    What a tree begins with does not count: where that is more than `bytes`, the tree may grow as much
    again. So what is copied into new trees stays in proportion to what was said.
    """

    bytes: int = 4 * MIB
    records: int = 2000
    fresh: float = 30.0
    """Seconds after which the store is asked again whether a node that is held is there still."""


@dataclass(slots=True)
class _Tree:
    size: TreeSize
    first_bytes: int
    newest: deque[str] = field(default_factory=lambda: deque(maxlen=_NEWEST))


@dataclass(slots=True)
class HeldTrees:
    """Nodes in a `NodeCache`, by tree. `clock` is monotonic, in seconds."""

    cache: NodeCache
    limits: TreeLimits
    clock: Callable[[], float] = time.monotonic
    _trees: Newest[Key, _Tree] = field(default_factory=lambda: Newest(_TREES))
    _seen: Newest[Key, float] = field(default_factory=lambda: Newest(_NODES))
    """When nodes were last seen in the store."""

    def get(self, key: Key) -> DurableNode | None:
        """Return a node, which tells whether its tree is crowded by now."""
        node = self.cache.get(key)
        return self._told(node) if isinstance(node, DurableNode) else None

    def nearest(self, key: Key) -> Mapping[str, DurableNode]:
        """Return a few nodes of a tree, by id, the given one not among them."""
        if (tree := self._trees.get(_tree(key))) is None:
            return {}
        tenant, wanted = key
        held = ((name, self.get((tenant, name))) for name in tree.newest if name != wanted)
        return {name: node for name, node in held if node}

    def fresh(self, key: Key) -> bool:
        """Whether a node was lately seen in the store."""
        return self.clock() - self._seen.get(key, -math.inf) < self.limits.fresh

    def first_bytes(self, key: Key) -> int:
        """Return how many bytes a node's tree begins with; 0 if that is not known."""
        tree = self._trees.get(_tree(key))
        return tree.first_bytes if tree else 0

    def note(self, key: Key, size: TreeSize, first_bytes: int) -> None:
        """Note that a node was seen in the store, and how large its tree is there."""
        self._seen[key] = self.clock()
        name = _tree(key)
        tree = self._trees.get(name) or _Tree(size, first_bytes)
        tree.size = size
        tree.first_bytes = tree.first_bytes or first_bytes
        self._trees[name] = tree

    def keep(self, node: DurableNode) -> DurableNode:
        """Keep a node whose tree was noted. Return it, told whether that is crowded."""
        told = self._told(node)
        self.cache.offer(told)
        if tree := self._trees.get(_tree((node.tenant, node.id))):
            tree.newest.append(node.id)
        return told

    def discard(self, key: Key) -> None:
        """Let go of a node."""
        self.cache.discard(key)
        self._seen.pop(key, None)

    def _told(self, node: DurableNode) -> DurableNode:
        crowded = self._crowded((node.tenant, node.id))
        return node if node.crowded == crowded else dataclasses.replace(node, crowded=crowded)

    def _crowded(self, key: Key) -> bool:
        if (tree := self._trees.get(_tree(key))) is None:
            return False
        grown = tree.size.bytes - tree.first_bytes
        most = max(self.limits.bytes, tree.first_bytes)
        return tree.size.records >= self.limits.records or grown >= most


def _tree(key: Key) -> Key:
    tenant, name = key
    return tenant, ids.root_of(name)
