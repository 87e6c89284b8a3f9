"""Real llama.cpp servers that can be taken away and come back at the same place."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import xllamacpp  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry

from service.backends import Backend
from service.metrics import Metrics
from service.rendering.proof import Proof
from service.router import Router
from service.servers import Roster, Server
from service.servers.adapters import Adapters
from service.servers.fleet import Fleet
from service.servers.member import Pace
from tests.llama_servers import LlamaServer

QUICK = Pace(interval=0.05, check=2, patience=5, failures=1)
"""A server that is gone is noticed at once."""
SLOW = Pace(interval=3600, patience=5, failures=3)
"""Nobody looks: turns find out themselves."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@dataclass
class Llama:
    """A llama.cpp server with the tiny model."""

    weights: Path
    alias: str = "tiny"
    port: int = field(default_factory=free_port)
    running: xllamacpp.Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        server = LlamaServer(
            weights=self.weights, alias=self.alias, port=self.port, context=8192, slots=2
        )
        self.running = server.start()

    def kill(self) -> None:
        self.running = None

    def server(self, name: str, **fields: object) -> Server:
        return Server(name=name, kind="llama.cpp", url=self.url, **fields)  # type: ignore[arg-type]


@dataclass
class Place:
    """A fleet, and what it tells of itself."""

    router: Router
    registry: CollectorRegistry

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def up(self, server: str) -> bool:
        return self.sample("turnwire_server_up", server=server) == 1

    def turns(self, server: str) -> float:
        return self.sample("turnwire_server_turns_inflight", server=server)


@asynccontextmanager
async def fleet_of(
    *servers: Server,
    pace: Pace = QUICK,
    strict: bool = False,
    aliases: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Place]:
    place = Place(Router(aliases=aliases), CollectorRegistry())
    roster = Roster(servers=servers, aliases=aliases, strict=strict)
    make = Adapters(Proof.never()).of
    fleet = Fleet(roster, place.router, make, Metrics(place.registry), pace)
    try:
        await fleet.start()
        yield place
    finally:
        await fleet.stop()


def here(name: str, backend: Backend, **fields: object) -> Server:
    return Server(name=name, kind="embedded", here=lambda _: backend, **fields)  # type: ignore[arg-type]


def reached(name: str, url: str) -> Server:
    return Server(name=name, kind="llama.cpp", url=url)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)
