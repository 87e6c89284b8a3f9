"""The responses that a turn refers to: what its connection holds, then what the store keeps."""

from service.conversation import DurableNode, Node
from service.errors import Refusal
from service.metrics import Metrics
from service.store import Store
from service.turns.plan import Holder


class Sources:
    """Finds responses. Every method may raise `StoreUnavailable`."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._hydrations = metrics.hydrations

    async def parent(self, response_id: str, caller: Holder) -> Node:
        """Return the response to continue. Raises `Refusal` if there is none."""
        if node := await self._held(response_id, caller):
            self._hydrations.labels("connection", "hit").inc()
            return node
        if node := await self._stored(response_id, caller):
            return node
        self._hydrations.labels("none", "miss").inc()
        raise Refusal(
            "previous_response_not_found",
            f"Previous response with id '{response_id[:64]}' not found.",
            "previous_response_id",
        )

    async def mentioned(self, response_id: str, caller: Holder) -> Node | None:
        """Return a response that is not continued, or None."""
        return await self._held(response_id, caller) or await self._stored(response_id, caller)

    async def _held(self, response_id: str, caller: Holder) -> Node | None:
        """Return what the connection holds, unless it was deleted on another replica meanwhile."""
        node = caller.recall(response_id)
        if isinstance(node, DurableNode) and not await self._store.confirm(node):
            return None
        return node

    async def _stored(self, response_id: str, caller: Holder) -> DurableNode | None:
        node = await self._store.get(caller.tenant, response_id)
        return node if node and node.continuable else None
