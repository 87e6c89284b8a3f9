"""Where stored responses live: one protocol, one suite of tests, several stores.

Nodes are immutable: a put is idempotent, and nothing is ever changed in place. All ids are looked up
within a tenant; absent, foreign and deleted are the same answer.
"""

from typing import Protocol

from service.conversation import DurableNode


class Store(Protocol):
    """Keeps the nodes of `store: true` responses."""

    async def get(self, tenant: str, response_id: str) -> DurableNode | None:
        """Return a node with all it continues, or None."""

    async def put(self, node: DurableNode) -> None:
        """Keep a node; it is durable when this returns."""

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Forget a node; tell whether it was there."""

    def expire(self) -> None:
        """Let go of what is too old. Called now and then; must be quick."""
