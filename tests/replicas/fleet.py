"""A whole service as it is run: replicas that share a store, behind Envoy."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.replicas.clients import talking
from tests.replicas.envoy import PORTS as ENVOY_PORTS
from tests.replicas.envoy import Envoy
from tests.replicas.ports import free_ports
from tests.replicas.process import ended, until
from tests.replicas.replica import PORTS as REPLICA_PORTS
from tests.replicas.replica import Address, Replica, sealing_keys

_TRIES = 64


@dataclass(frozen=True)
class Fleet:
    """Two replicas over one store, behind one Envoy."""

    here: Replica
    there: Replica
    envoy: Envoy

    @property
    def replicas(self) -> tuple[Replica, Replica]:
        """Both."""
        return self.here, self.there

    @property
    def address(self) -> Address:
        """Where clients reach either."""
        return self.envoy.address

    async def restart(self) -> None:
        """Let all replicas go, and start them anew: what they held in memory is gone."""
        assert [await replica.process.stop() for replica in self.replicas] == [0, 0]
        await asyncio.gather(*map(self.bring_back, self.replicas))

    async def bring_back(self, replica: Replica) -> None:
        """Start a replica, and wait until clients are sent to it."""
        await replica.start()

        async def known() -> bool:
            return await self.envoy.healthy(replica.name)

        await until(known)

    async def conversation_at(self, replica: Replica) -> str:
        """Return what Envoy takes to a replica."""
        for number in range(_TRIES):
            name = f"conversation-{number}"
            before = await _turns(replica)
            async with talking("websocket", self.address, name) as chat:
                await chat.ask("hello", store=False)
            if await _turns(replica) > before:
                return name
        raise AssertionError("Envoy takes everything elsewhere")


@asynccontextmanager
async def fleet(
    folder: Path, store_url: str, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Fleet]:
    """Run two replicas over a store, and an Envoy, for as long as the context lasts."""
    shared = {
        "store": "valkey",
        "store_url": store_url,
        "sealing_keys_file": str(sealing_keys(folder)),
        **(settings or {}),
    }
    ports = free_ports(2 * REPLICA_PORTS + ENVOY_PORTS)
    here, there = (Replica(f"turnwire-{number}", folder, ports, shared) for number in range(2))
    envoy = Envoy(folder, ports, [here, there])
    async with ended(envoy.process, here.process, there.process):
        await asyncio.gather(here.start(), there.start())
        await envoy.start()
        yield Fleet(here, there, envoy)


async def _turns(replica: Replica) -> float:
    return await replica.sample("turnwire_turns_total")
