"""Vaults over real servers, and what to put into them."""

import atexit
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry

from service import ids
from service.metrics import Metrics
from service.store.valkey import ValkeyVault
from service.store.valkey.address import address_of
from service.store.valkey.caller import Demands
from service.store.vault import Record, Vault, VaultLimits
from tests.valkeys import FLAVOURS, ValkeyServer, cluster, running

TENANT = "acme"
_SHARED = ExitStack()
"""Runs what all tests of the session share."""
atexit.register(_SHARED.close)


@functools.cache
def shared(flavour: str) -> ValkeyServer:
    """Return a server that all tests of the session share."""
    return _SHARED.enter_context(running(flavour))


@functools.cache
def shared_cluster() -> tuple[str, list[ValkeyServer]]:
    """Return a cluster that all tests of the session share: its URL, and its primaries."""
    made = _SHARED.enter_context(cluster("valkey-9"))
    return made.url, made.primaries()


@asynccontextmanager
async def opened(
    url: str,
    demands: Demands = Demands(),  # noqa: B008  # immutable
    limits: VaultLimits = VaultLimits(),  # noqa: B008
    metrics: Metrics | None = None,
) -> AsyncIterator[ValkeyVault]:
    """Open a vault for as long as the context lasts."""
    metrics = metrics or Metrics(CollectorRegistry())
    vault = ValkeyVault(address_of(url), demands, limits, metrics)
    try:
        await vault.start()
        yield vault
    finally:
        await vault.stop()


@asynccontextmanager
async def _alone(flavour: str, _: Path, limits: VaultLimits) -> AsyncIterator[Vault]:
    server = shared(flavour)
    server.run("FLUSHALL")
    async with opened(server.url, limits=limits) as vault:
        yield vault


@asynccontextmanager
async def _clustered(_: Path, limits: VaultLimits) -> AsyncIterator[Vault]:
    url, primaries = shared_cluster()
    for server in primaries:
        server.run("FLUSHALL")
    async with opened(url, limits=limits) as vault:
        yield vault


MAKERS: dict[str, Callable[[Path, VaultLimits], AbstractAsyncContextManager[Vault]]] = {
    **{flavour: functools.partial(_alone, flavour) for flavour in FLAVOURS},
    "valkey-cluster": _clustered,
}
"""Open a vault that is empty; the suites run over all of them."""


def record(parent: Record | None = None, path: bytes = b"path", response: bytes = b"r") -> Record:
    """Make a record that continues another."""
    name = ids.response_id(parent.id if parent else None)
    return Record(name, parent.id if parent else "", path, response)


async def chain(vault: ValkeyVault, length: int) -> list[Record]:
    """Put a conversation of so many turns."""
    records = [record()]
    for _ in range(length - 1):
        records.append(record(records[-1]))
    for one in records:
        await vault.put(TENANT, one, None)
    return records
