"""The default stores: this process's memory, within a budget. A restart forgets everything."""

from service.cache import NodeCache, SegmentCache
from service.conversation import DurableNode
from service.store import StoredConversation


class MemoryStore:
    """Keeps nodes in a `NodeCache`."""

    def __init__(self, cache: NodeCache) -> None:
        self._cache = cache

    async def get(self, tenant: str, response_id: str) -> DurableNode | None:
        """Return a node with all it continues, or None."""
        node = self._cache.get((tenant, response_id))
        return node if isinstance(node, DurableNode) else None

    async def put(self, node: DurableNode) -> None:
        """Keep a node, unless it is there, for as long as the budget and its age allow."""
        self._cache.put(node)

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Forget a node; tell whether it was there."""
        return self._cache.discard((tenant, response_id))

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
