"""The stores that the operator asks for, open for as long as they are used."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from service.cache import Bounds, NodeCache, SegmentCache
from service.memory import Memory
from service.metrics import Metrics
from service.store import Stores
from service.store.conversations import DurableConversations
from service.store.durable import DurableStore
from service.store.envelopes import Envelopes
from service.store.held import HeldTrees, TreeLimits
from service.store.memory import MemoryCells, MemoryConversations, MemoryStore
from service.store.sealed import Sealer
from service.store.sqlite import SqliteVault
from service.store.valkey import ValkeyVault
from service.store.valkey.address import address_of
from service.store.valkey.caller import Demands
from service.store.vault import Vault, VaultLimits

C = TypeVar("C", bound=SegmentCache[Any])
QuotaOf = Callable[[str], int | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreChoice:
    """What the operator asks for, in seconds and bytes."""

    kind: Literal["memory", "sqlite", "valkey"]
    ttl: float
    responses_bytes: int
    conversations_bytes: int
    tree: TreeLimits
    most_bytes: int
    """The longest conversation."""
    keys: Path | None
    file: Path
    url: str
    demands: Demands


class Opener:
    """Opens stores. What they hold in this process's memory is part of `memory`."""

    def __init__(
        self, choice: StoreChoice, memory: Memory, metrics: Metrics, quota_of: QuotaOf
    ) -> None:
        self._choice = choice
        self._memory = memory
        self._metrics = metrics
        self._quota_of = quota_of

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Stores]:
        """Open the stores. Raises `ValueError`, `OSError`, and `StoreUnavailable` with a note."""
        if self._choice.kind == "memory":
            yield self._in_memory()
            return
        vault = self._vault()
        await vault.start()
        try:
            yield self._durable(vault)
        finally:
            await vault.stop()

    def _in_memory(self) -> Stores:
        conversations = self._cache(SegmentCache, "conversations", self._choice.conversations_bytes)
        responses = self._cache(NodeCache, "store", self._choice.responses_bytes)
        return Stores(
            responses=MemoryStore(responses),
            conversations=MemoryConversations(conversations),
            cells=MemoryCells(time.monotonic),
        )

    def _durable(self, vault: Vault) -> Stores:
        envelopes = Envelopes(self._sealer(), self._metrics.store_tampered)
        cache = self._cache(NodeCache, "process", self._choice.responses_bytes)
        held = HeldTrees(cache, self._choice.tree)
        store = DurableStore(vault, envelopes, held, self._metrics, self._quota_of)
        conversations = DurableConversations(vault, store, envelopes, self._choice.ttl)
        return Stores(responses=store, conversations=conversations, cells=vault)

    def _vault(self) -> Vault:
        limits = VaultLimits(ttl=self._choice.ttl)
        if self._choice.kind == "sqlite":
            return SqliteVault(self._choice.file, limits, self._metrics)
        address = address_of(self._choice.url)
        return ValkeyVault(address, self._choice.demands, limits, self._metrics)

    def _sealer(self) -> Sealer:
        assert self._choice.keys  # the configuration sees to it
        # A record that stands alone holds a whole conversation, and what was rendered of it.
        return Sealer.read(self._choice.keys, 4 * self._choice.most_bytes)

    def _cache(self, kind: type[C], layer: str, budget: int) -> C:
        """Make a cache that metrics can see."""
        evictions, metrics = self._metrics.cache_evictions, self._metrics
        bounds = Bounds(budget=budget, ttl=self._choice.ttl)
        cache = self._memory.shared(
            kind, bounds, lambda reason: evictions.labels(layer, reason).inc()
        )
        metrics.cache_bytes.labels(layer).set_function(lambda: cache.bytes)
        metrics.cache_entries.labels(layer).set_function(lambda: len(cache))
        return cache
