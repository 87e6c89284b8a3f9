"""The default store: this process's memory, within a budget. A restart forgets everything."""

from service.cache import NodeCache
from service.conversation import DurableNode


class MemoryStore:
    """Keeps nodes in a `NodeCache`."""

    def __init__(self, cache: NodeCache) -> None:
        self._cache = cache

    async def get(self, tenant: str, response_id: str) -> DurableNode | None:
        """Return a node with all it continues, or None."""
        node = self._cache.get((tenant, response_id))
        return node if isinstance(node, DurableNode) else None

    async def put(self, node: DurableNode) -> None:
        """Keep a node for as long as the budget and its age allow."""
        self._cache.put(node)

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Forget a node; tell whether it was there."""
        return self._cache.discard((tenant, response_id))

    def expire(self) -> None:
        """Let go of what has not been used for too long."""
        self._cache.expire()
