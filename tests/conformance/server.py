"""A whole service on free ports, with the simulator behind it and two tenants in front."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

import transports.grpc
import transports.http
from service.backends import Backend
from service.engine import Engine, EngineLimits, Policies
from service.identity import Identities
from service.identity.keys import KeyFile, new_key
from service.limits import Limits
from tests.engines import engine_of


@dataclass(frozen=True)
class Server:
    engine: Engine
    identities: Identities
    registry: CollectorRegistry
    websocket_url: str
    grpc_target: str
    alice: str
    bob: str

    def sample(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def serving(
    backend: Backend,
    folder: Path,
    limits: EngineLimits | None = None,
    policies: Policies | None = None,
) -> AsyncIterator[Server]:
    (alice, one), (bob, two) = new_key("alice"), new_key("bob")
    (folder / "keys").write_text(f"{one}\n{two}\n")
    keys = KeyFile.read(folder / "keys")
    registry = CollectorRegistry()
    await backend.start()
    engine = engine_of(backend, limits, policies, registry)
    http = await transports.http.serve(
        engine, keys, Limits(), transports.http.Address("127.0.0.1", 0)
    )
    grpc = await transports.grpc.serve(engine, keys, Limits(), "127.0.0.1:0")
    try:
        yield Server(
            engine=engine,
            identities=keys,
            registry=registry,
            websocket_url=f"ws://127.0.0.1:{http.port}/v1/responses",
            grpc_target=f"127.0.0.1:{grpc.port}",
            alice=alice,
            bob=bob,
        )
    finally:
        await engine.drain(0)
        await http.stop()
        await grpc.stop(0)
        await backend.stop()
