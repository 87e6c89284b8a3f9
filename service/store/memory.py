"""The default stores: this process's memory, within a budget. A restart forgets everything."""

from collections.abc import Callable
from dataclasses import dataclass, field

from service.cache import NodeCache, SegmentCache
from service.conversation import DurableNode
from service.newest import Newest
from service.store import Cell, CellName, StoredConversation

_MOST_CELLS = 8192
"""Of a tenant: one that has more loses its own."""
_MOST_TENANTS = 4096


class MemoryStore:
    """Keeps nodes in a `NodeCache`."""

    def __init__(self, cache: NodeCache) -> None:
        self._cache = cache

    async def get(self, tenant: str, response_id: str) -> DurableNode | None:
        """Return a node with all it continues, or None."""
        node = self._cache.get((tenant, response_id))
        return node if isinstance(node, DurableNode) else None

    async def confirm(self, node: DurableNode) -> bool:
        """Tell that it is: who deletes a node here has all connections forget it."""
        del node
        return True

    async def retrieve(self, tenant: str, response_id: str) -> DurableNode | None:
        """Return a node with its response, or None."""
        return await self.get(tenant, response_id)

    async def put(self, node: DurableNode) -> DurableNode:
        """Keep a node, unless it is there, for as long as the budget and its age allow."""
        self._cache.put(node)
        return node

    async def amend(self, node: DurableNode) -> None:
        """Keep a node in the place of the one with its id."""
        self._cache.replace(node)

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Forget a node; tell whether it was there."""
        return self._cache.discard((tenant, response_id))

    def check(self) -> None:
        """Do nothing: memory is always there."""

    def expire(self) -> None:
        """Let go of what has not been used for too long."""
        self._cache.expire()


class MemoryConversations:
    """Keeps conversations in a `SegmentCache`."""

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


@dataclass(slots=True)
class MemoryCells:
    """Keeps cells, a tenant's newest if it has very many. `clock` is monotonic, in seconds."""

    clock: Callable[[], float]
    _tenants: Newest[str, Newest[CellName, tuple[Cell, float]]] = field(
        default_factory=lambda: Newest(_MOST_TENANTS)
    )

    async def read(self, name: CellName) -> Cell | None:
        """Return a cell, or None."""
        cell, until = self._of(name.tenant).get(name, (None, 0.0))
        return cell if self.clock() < until else None

    async def write(self, name: CellName, cell: Cell, ttl: float) -> bool:
        """Write a cell, if what is there is of the revision before; tell whether it was."""
        now = await self.read(name)
        if (now.revision if now else 0) != cell.revision - 1:
            return False
        cells = self._of(name.tenant)
        cells[name] = cell, self.clock() + ttl
        self._tenants[name.tenant] = cells
        return True

    async def drop(self, name: CellName) -> bool:
        """Forget a cell; tell whether it was there."""
        there = await self.read(name) is not None
        self._of(name.tenant).pop(name, None)
        return there

    def _of(self, tenant: str) -> Newest[CellName, tuple[Cell, float]]:
        """Return a tenant's cells; nothing is kept of one that has none."""
        return self._tenants.get(tenant) or Newest(_MOST_CELLS)
