"""Clients that put one record after the other, and remember what was acknowledged."""

import asyncio

from service.store import StoreUnavailable
from service.store.valkey import ValkeyVault
from service.store.vault import Record
from tests.service.store.valkey.vaults import TENANT, record

DEADLINE = 30.0
"""Seconds, for whatever happens at all."""


class Load:
    """Clients that put records, one after the other, until they are told to stop."""

    def __init__(self, vault: ValkeyVault, clients: int = 4) -> None:
        self.acknowledged: list[Record] = []
        self.refused = 0
        self._vault = vault
        self._more = asyncio.Event()
        self._stopping = False
        self._tasks = [asyncio.create_task(self._put()) for _ in range(clients)]

    async def goes_on(self, records: int = 50) -> None:
        """Wait until so many more are acknowledged."""
        goal = len(self.acknowledged) + records
        async with asyncio.timeout(DEADLINE):
            while len(self.acknowledged) < goal:
                self._more.clear()
                await self._more.wait()

    async def stop(self) -> None:
        self._stopping = True
        async with asyncio.timeout(2 * DEADLINE):
            await asyncio.gather(*self._tasks)

    async def _put(self) -> None:
        last: Record | None = None
        while not self._stopping:
            new = record(last)
            try:
                await self._vault.put(TENANT, new, None)
            except StoreUnavailable:
                self.refused += 1
                continue
            self.acknowledged.append(new)
            self._more.set()
            last = new if len(self.acknowledged) % 50 else None


async def lost(vault: ValkeyVault, records: list[Record]) -> int:
    """Return how many of those records are not there, or cannot be continued."""
    gone = 0
    for one in records:
        path = await vault.path(TENANT, one.id, [])
        gone += path is None or path.steps[0].path != one.path
    return gone
