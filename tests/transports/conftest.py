"""A served endpoint for each test, with a scripted engine behind it, on both event loops."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest
import uvloop
from websockets.asyncio.client import ClientConnection, connect

from service.identity import Anonymous, Identities
from service.limits import Limits
from tests.transports.scripted import ScriptedEngine
from transports.endpoint import Endpoint
from transports.http import Address, HttpServer, serve_endpoint, wheel_for
from transports.keepalive import Wheel

_ON_BOTH_LOOPS = (
    "test_grpc",
    "test_health",
    "test_http",
    "test_http_api",
    "test_tls",
    "test_websocket",
)


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Sockets behave a little differently on each loop; other transports bring their own."""
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return loops if item.path.stem in _ON_BOTH_LOOPS else {"asyncio": asyncio.new_event_loop}


@dataclass
class Served:
    """A server under test."""

    engine: ScriptedEngine
    http: HttpServer
    wheel: Wheel

    @property
    def port(self) -> int:
        return self.http.port

    def connect(self, path: str = "/v1/responses", **headers: str) -> connect:
        return connect(
            f"ws://127.0.0.1:{self.port}{path}",
            additional_headers={name.replace("_", "-"): value for name, value in headers.items()},
            ping_interval=None,
            max_size=None,
            compression=None,
            proxy=None,
        )


@pytest.fixture
def limits() -> Limits:
    """Limits of a test; override by parametrising."""
    return Limits()


@pytest.fixture
def keys() -> Identities:
    return Anonymous()


@pytest.fixture
async def served(limits: Limits, keys: Identities) -> AsyncIterator[Served]:
    engine = ScriptedEngine()
    endpoint = Endpoint(engine.port, keys, limits, wheel_for(limits))
    http = await serve_endpoint(endpoint, Address("127.0.0.1", 0))
    yield Served(engine, http, endpoint.wheel)
    await http.stop()


@pytest.fixture
async def client(served: Served) -> AsyncIterator[ClientConnection]:
    async with served.connect() as connection:
        yield connection
