"""The store whose nodes outlive this process: sealed records in a vault, and nodes of late before it.

However many ask for a node at once, it is fetched once, and only what is not held.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from service import ids
from service.cache import Key
from service.conversation import DurableNode
from service.metrics import Metrics
from service.store import StoreUnavailable, records
from service.store.envelopes import Envelopes, Opened, Unreadable
from service.store.flights import Flights
from service.store.held import HeldTrees
from service.store.records import Base
from service.store.vault import Orphaned, Record, Vault
from turnwire.v1 import state_pb2


class Found(NamedTuple):
    """A node that was looked for."""

    node: DurableNode
    withdrawn: bool = False
    """Whether its response was deleted, and only a conversation goes on from it."""


class DurableStore:
    """Keeps nodes in a vault. `quota_of` tells how many bytes a tenant may keep; None is no bound."""

    def __init__(
        self,
        vault: Vault,
        envelopes: Envelopes,
        held: HeldTrees,
        metrics: Metrics,
        quota_of: Callable[[str], int | None] = lambda _: None,
    ) -> None:
        self._vault = vault
        self._envelopes = envelopes
        self._held = held
        self._quota_of = quota_of
        self._flights = Flights[Key, Found | None](metrics.flights_shared)
        self._hydrations = metrics.hydrations
        self._hydrated_records = metrics.hydrated_records

    async def get(self, tenant: str, response_id: str) -> DurableNode | None:
        """Return a node with all it continues and without its response, or None."""
        found = await self._find((tenant, response_id))
        return found.node if found and not found.withdrawn else None

    async def confirm(self, node: DurableNode) -> bool:
        """Tell whether a node is still to be continued; where the store is away, it is."""
        key = (node.tenant, node.id)
        if self._held.fresh(key):
            return True
        found = await self._flights.join(key, partial(self._verify, node))
        return found is not None and not found.withdrawn

    async def tip(self, tenant: str, name: str) -> DurableNode | None:
        """Return a node that a conversation stands on, also if its response was deleted, or None."""
        found = await self._find((tenant, name))
        return found.node if found else None

    async def retrieve(self, tenant: str, response_id: str) -> DurableNode | None:
        """Return a node with its response and its own items only, or None."""
        opened = await self._response((tenant, response_id))
        return records.retrieved(tenant, response_id, *opened) if opened else None

    async def put(self, node: DurableNode) -> DurableNode:
        """Keep a node; it is durable when this returns. Return it without its response."""
        key, quota = (node.tenant, node.id), self._quota_of(node.tenant)
        record = await self._closed(node)
        try:
            size = await self._vault.put(node.tenant, record, quota)
        except Orphaned:
            record = await self._closed_alone(node)
            size = await self._vault.put(node.tenant, record, quota)
        self._held.note(key, size, 0 if record.parent else len(record.path))
        slim = dataclasses.replace(node, response_data=b"", trace_data=b"")
        return self._held.keep(slim) if node.continuable else slim

    async def amend(self, node: DurableNode) -> None:
        """Keep a node, in the place of the one with its id if there is one."""
        await self._vault.amend(node.tenant, await self._closed(node))
        self._held.discard((node.tenant, node.id))

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Forget a node; tell whether it was there. What continued it can still be continued."""
        key = (tenant, response_id)
        record = await self._record(key)
        if record is None or not await self._forget(tenant, record):
            return False
        await self._flights.settled(key)  # one that took off before would have it held again
        self._held.discard(key)
        return True

    def holds(self, node: DurableNode) -> bool:
        """Whether a node is known to be in the vault."""
        return self._held.get((node.tenant, node.id)) is not None

    def check(self) -> None:
        """Raise `StoreUnavailable` at once if a put is known to fail now."""
        self._vault.check()

    def expire(self) -> None:
        """Let go of what is too old."""
        self._held.cache.expire()
        self._vault.expire()

    async def _find(self, key: Key) -> Found | None:
        node = self._held.get(key)
        if node is None:
            return await self._flights.join(key, partial(self._hydrate, key))
        if not self._held.fresh(key):
            return await self._flights.join(key, partial(self._verify, node))
        self._hydrations.labels("process", "hit").inc()
        return Found(node)

    async def _hydrate(self, key: Key) -> Found | None:
        """Fetch a node, as far as it is not held."""
        held = self._held.nearest(key)
        try:
            found = await self._fetch(key, held)
        except StoreUnavailable:
            self._hydrations.labels("store", "error").inc()
            raise
        self._hydrations.labels("store", "hit" if found else "miss").inc()
        if found is None or found.withdrawn or not found.node.continuable:
            return found
        return Found(self._held.keep(found.node))

    async def _verify(self, node: DurableNode) -> Found | None:
        """Ask whether a node that is held was deleted elsewhere; have it kept for longer if not."""
        key = (node.tenant, node.id)
        parent = node.parent_id if records.continues(node) else None
        try:
            found = await self._fetch(key, {parent: None} if parent else {})
        except StoreUnavailable:
            found = Found(node)  # nobody can tell: go on with what is here
        if found and not found.withdrawn:
            self._hydrations.labels("process", "hit").inc()
            return Found(self._held.get(key) or node)
        self._held.discard(key)
        self._hydrations.labels("store", "hit" if found else "miss").inc()
        return Found(node, withdrawn=True) if found else None  # what was fetched is its end only

    async def _fetch(self, key: Key, held: Mapping[str, DurableNode | None]) -> Found | None:
        """Fetch a node from the vault, back to its beginning or to one of those held."""
        tenant, name = key
        path = await self._vault.path(tenant, name, held.keys()) if ids.is_response(name) else None
        if path is None:
            return None
        last = path.steps[-1]
        try:
            base = Base.of(held.get(last.parent))
            opened = await self._envelopes.continuing(tenant, path.steps, base)
        except Unreadable:
            return None
        self._hydrated_records.observe(len(path.steps))
        self._held.note(
            key, path.size, opened.first_bytes or (0 if last.parent else len(last.path))
        )
        return Found(opened.node, opened.withdrawn)

    async def _response(self, key: Key) -> Opened | None:
        record = await self._record(key)
        try:
            return await self._envelopes.record(key[0], record) if record else None
        except Unreadable:
            return None

    async def _record(self, key: Key) -> Record | None:
        """Return the record of a response, or None."""
        if not ids.is_response(key[1]):
            return None
        record = await self._vault.retrieve(*key)
        return record if record and record.response else None

    async def _closed(self, node: DurableNode) -> Record:
        if not records.continues(node) or not node.parent_id:
            return await self._closed_alone(node)
        parent = self._held.get((node.tenant, node.parent_id))
        return await self._closed_as(node, records.added(node, parent), node.parent_id)

    async def _closed_alone(self, node: DurableNode) -> Record:
        return await self._closed_as(node, records.whole(node), "")

    async def _closed_as(
        self, node: DurableNode, path: state_pb2.StoredPath, parent: str
    ) -> Record:
        path.first_bytes = self._held.first_bytes((node.tenant, node.id))
        return await self._envelopes.closed(node, path, parent)

    async def _forget(self, tenant: str, record: Record) -> bool:
        try:
            path = (await self._envelopes.record(tenant, record)).path
        except Unreadable:
            return await self._vault.delete(tenant, record.id)
        if not path.pinned:
            return await self._vault.delete(tenant, record.id)
        await self._vault.amend(tenant, self._envelopes.withdrawn(tenant, record, path))
        return True
