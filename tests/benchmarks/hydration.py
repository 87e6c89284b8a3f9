"""What it costs to fetch a long conversation: `python -m tests.benchmarks.hydration`.

A conversation is stored turn by turn; then replicas that hold nothing of it fetch it whole, and one that
holds it fetches what was added since. CPU is that of this process, the best of several runs; bytes are
what the vault sent. Puts are timed one after another and many at once.
"""

import argparse
import asyncio
import random
import secrets
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path as FilePath
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.table import Table

from service import ids
from service.cache import Bounds, NodeCache
from service.conversation import DurableNode, Segment
from service.metrics import Metrics
from service.store.durable import DurableStore
from service.store.envelopes import Envelopes
from service.store.held import HeldTrees, TreeLimits
from service.store.sealed import Sealer
from service.store.sqlite import SqliteVault
from service.store.valkey import ValkeyVault
from service.store.valkey.address import address_of
from service.store.valkey.caller import Demands
from service.store.vault import Path, Vault, VaultLimits
from turnwire.v1 import items_pb2

_RUNS = 7
_SEALER = Sealer([secrets.token_bytes(32)])
_WORDS = [f"{random.Random(seed).getrandbits(40):x}"[:7] for seed in range(4000)]


class Cost(NamedTuple):
    """What a fetch took."""

    records: int
    bytes: int
    cpu: float
    """In seconds, like the next."""
    wall: float


class Weighing:
    """A vault whose answers are weighed."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.records = self.bytes = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._vault, name)

    async def path(self, tenant: str, record_id: str, held: Collection[str]) -> Path | None:
        """Fetch, and weigh."""
        path = await self._vault.path(tenant, record_id, held)
        assert path
        self.records = len(path.steps)
        self.bytes = sum(len(step.path) for step in path.steps)
        return path


class Replica:
    """A process that holds nothing yet."""

    def __init__(self, vault: Vault) -> None:
        metrics = Metrics(CollectorRegistry())
        self._weighing = Weighing(vault)
        held = HeldTrees(
            NodeCache(Bounds(budget=1 << 28), time.monotonic),
            TreeLimits(bytes=1 << 30, records=1 << 20),
        )
        envelopes = Envelopes(_SEALER, metrics.store_tampered)
        self.store = DurableStore(self._weighing, envelopes, held, metrics)  # type: ignore[arg-type]

    async def fetch(self, name: str) -> Cost:
        """Fetch a conversation."""
        cpu, wall = time.process_time(), time.perf_counter()
        assert await self.store.get("bench", name)
        took = time.process_time() - cpu, time.perf_counter() - wall
        return Cost(self._weighing.records, self._weighing.bytes, *took)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=["sqlite", "valkey"], default="sqlite")
    parser.add_argument("--url", default="valkey://127.0.0.1:6379/0")
    parser.add_argument("--turns", type=int, default=500)
    parser.add_argument("--bytes", type=int, default=4096, help="what a turn adds")
    asyncio.run(_measure(parser.parse_args()))


async def _measure(arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as directory:
        vault = _vault(arguments, FilePath(directory))
        await vault.start()
        try:
            await _show_fetches(vault, arguments.turns, arguments.bytes)
            await _show_puts(vault, arguments.bytes)
        finally:
            await vault.stop()


def _vault(arguments: argparse.Namespace, directory: FilePath) -> Vault:
    metrics = Metrics(CollectorRegistry())
    if arguments.store == "sqlite":
        return SqliteVault(directory / "store.db", VaultLimits(), metrics)
    return ValkeyVault(address_of(arguments.url), Demands(), VaultLimits(), metrics)


async def _show_fetches(vault: Vault, turns: int, size: int) -> None:
    writer = Replica(vault).store
    warm, last = Replica(vault), await _talk(writer, turns, size)
    cold = [await Replica(vault).fetch(last.id) for _ in range(_RUNS)]
    await warm.fetch(last.id)
    tails = []
    for _ in range(_RUNS):
        last = await _talk(writer, 2, size, last)
        tails.append(await warm.fetch(last.id))
    table = Table(
        "fetched", "records", "bytes", "CPU", "time", title=f"{turns} turns of {size} bytes"
    )
    table.add_row("cold", *_shown(cold))
    table.add_row("warm, two turns later", *_shown(tails))
    Console().print(table)


async def _show_puts(vault: Vault, size: int) -> None:
    store = Replica(vault).store
    table = Table("puts", "a second")
    for at_once in (1, 8, 64):
        table.add_row(f"{at_once} at once", f"{await _rate(store, size, at_once):.0f}")
    Console().print(table)


async def _rate(store: DurableStore, size: int, at_once: int) -> float:
    """Return how many puts a second there are, with so many conversations at once."""
    each = max(10, 320 // at_once)
    began = time.perf_counter()
    await asyncio.gather(*(_talk(store, each, size) for _ in range(at_once)))
    return each * at_once / (time.perf_counter() - began)


async def _talk(
    store: DurableStore, turns: int, size: int, parent: DurableNode | None = None
) -> DurableNode:
    for _ in range(turns):
        parent = await store.put(_node(size, parent))
    assert parent
    return parent


def _node(size: int, parent: DurableNode | None) -> DurableNode:
    text = " ".join(random.choices(_WORDS, k=size // 8))
    message = items_pb2.Message(role="user", content_text=text)
    return DurableNode(
        tenant="bench",
        id=ids.response_id(parent.id if parent else None),
        parent_id=parent.id if parent else None,
        segment=Segment(parent.segment if parent else None, [items_pb2.Item(message=message)]),
        inputs=1,
        pending_calls=frozenset(),
        response_data=text.encode(),
        trace_data=b"",
    )


def _shown(costs: Sequence[Cost]) -> Sequence[str]:
    best = min(costs, key=lambda cost: cost.cpu)
    return (
        str(best.records),
        f"{best.bytes:,}",
        f"{best.cpu * 1e3:.2f} ms",
        f"{min(cost.wall for cost in costs) * 1e3:.2f} ms",
    )


if __name__ == "__main__":
    main()
