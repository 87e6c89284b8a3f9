"""The stores that the suites run over. A new vault is one row in `VAULTS`: it is a store, too, then."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias, cast

import pytest
from prometheus_client import CollectorRegistry

from service.cache import Bounds, NodeCache, SegmentCache
from service.metrics import Metrics
from service.store import ConversationStore, Store, StoredConversation
from service.store.conversations import DurableConversations
from service.store.durable import DurableStore
from service.store.envelopes import Envelopes
from service.store.held import HeldTrees, TreeLimits
from service.store.memory import MemoryConversations, MemoryStore
from service.store.sealed import Sealer
from service.store.sqlite import SqliteVault
from service.store.vault import Vault, VaultLimits
from tests.service.store.valkey.vaults import MAKERS

KEY = bytes(range(32))
BOUNDS = Bounds(budget=1 << 24)

Maker: TypeAlias = Callable[[Path, VaultLimits], AbstractAsyncContextManager[Vault]]
"""Opens a vault that is empty and started; `Path` is a directory of the test's own."""


@asynccontextmanager
async def sqlite(directory: Path, limits: VaultLimits) -> AsyncIterator[Vault]:
    vault = SqliteVault(directory / "store.db", limits, Metrics(CollectorRegistry()))
    await vault.start()
    try:
        yield vault
    finally:
        await vault.stop()


VAULTS: dict[str, Maker] = {"sqlite": sqlite, **MAKERS}


class Replica:
    """A process's view of a vault: nothing of what another one holds is in it."""

    def __init__(self, vault: Vault, limits: TreeLimits | None = None, key: bytes = KEY) -> None:
        self.vault = vault
        self.metrics = Metrics(CollectorRegistry())
        self.held = HeldTrees(NodeCache(BOUNDS, time.monotonic), limits or TreeLimits())
        self.envelopes = Envelopes(Sealer([key]), self.metrics.store_tampered)
        self.store = DurableStore(vault, self.envelopes, self.held, self.metrics)
        self.conversations = DurableConversations(vault, self.store, self.envelopes, 60.0)

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture(params=VAULTS)
async def vault(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Vault]:
    async with VAULTS[request.param](tmp_path, VaultLimits()) as vault:
        yield vault


STORES = ["memory", *VAULTS, *(f"{name}, anew" for name in VAULTS)]
"""The last ones fetch all they are asked for from their vault."""


class Anew:
    """Stores that are another process's whenever they are asked for something."""

    def __init__(self, part: Callable[[], object]) -> None:
        self._part = part

    def __getattr__(self, name: str) -> object:
        return getattr(self._part(), name)


@asynccontextmanager
async def opened(row: str, directory: Path) -> AsyncIterator[Callable[[], Replica] | None]:
    """Open the vault of a row of `STORES`; yield what makes replicas of it, None without a vault."""
    name, _, anew = row.partition(",")
    if name not in VAULTS:
        yield None
        return
    async with VAULTS[name](directory, VaultLimits()) as vault:
        only = Replica(vault)
        yield (lambda: Replica(vault)) if anew else (lambda: only)


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(request.param, tmp_path) as replica:
        if replica is None:
            yield MemoryStore(NodeCache(BOUNDS, time.monotonic))
        else:
            yield cast("Store", Anew(lambda: replica().store))


@pytest.fixture(params=STORES)
async def conversations(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[ConversationStore]:
    async with opened(request.param, tmp_path) as replica:
        if replica is None:
            yield MemoryConversations(SegmentCache[StoredConversation](BOUNDS, time.monotonic))
        else:
            yield cast("ConversationStore", Anew(lambda: replica().conversations))
