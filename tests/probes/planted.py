"""A service that gives tenants away, to see that the stopwatch notices: `python -m tests.probes.planted`.

Its store takes some microseconds longer to say that there is nothing where another tenant has something.
"""

import argparse
import asyncio
import dataclasses
import time
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry

import transports.http
from service.backends.simulator.backend import Simulator
from service.conversation import DurableNode
from service.engine import Engine, EngineLimits, Policies
from service.identity.keys import KeyFile
from service.limits import Limits
from service.metrics import Metrics
from service.router import Router
from service.store import Store
from tests.engines import stores


class Leaky:
    """A store that takes longer about what others have."""

    def __init__(self, store: Store, seconds: float) -> None:
        self._store = store
        self._seconds = seconds
        self._known: set[str] = set()

    async def get(self, tenant: str, response_id: str) -> DurableNode | None:
        return self._late(response_id, await self._store.get(tenant, response_id))

    async def retrieve(self, tenant: str, response_id: str) -> DurableNode | None:
        return self._late(response_id, await self._store.retrieve(tenant, response_id))

    async def confirm(self, node: DurableNode) -> bool:
        return await self._store.confirm(node)

    async def put(self, node: DurableNode) -> DurableNode:
        self._known.add(node.id)
        return await self._store.put(node)

    async def amend(self, node: DurableNode) -> None:
        await self._store.amend(node)

    async def delete(self, tenant: str, response_id: str) -> bool:
        return await self._store.delete(tenant, response_id)

    def check(self) -> None:
        self._store.check()

    def expire(self) -> None:
        self._store.expire()

    def _late(self, response_id: str, found: DurableNode | None) -> DurableNode | None:
        if self._seconds and found is None and response_id in self._known:
            until = time.perf_counter() + self._seconds
            while time.perf_counter() < until:
                pass
        return found


async def main() -> None:
    """Serve until the process is killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=Path, required=True)
    parser.add_argument("--http", type=int, required=True)
    parser.add_argument("--microseconds", type=float, required=True)
    arguments = parser.parse_args()
    kept = stores()
    leaky = Leaky(kept.responses, arguments.microseconds / 1e6)
    metrics, simulator = Metrics(CollectorRegistry()), Simulator()
    engine = Engine(
        Router([simulator]),
        dataclasses.replace(kept, responses=leaky),
        metrics,
        EngineLimits(),
        Policies(),
    )
    address = transports.http.Address("127.0.0.1", arguments.http)
    await transports.http.serve(engine, KeyFile.read(arguments.keys), Limits(), address)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
