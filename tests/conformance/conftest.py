"""Fixtures: a server, and connections to it over whichever transport the row is."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from service.backends.simulator.backend import Simulator
from tests.conformance.clients import ROWS, Connect
from tests.conformance.conversation import Conversation
from tests.conformance.gated import Gated
from tests.conformance.server import Server, serving

Talk = Callable[..., AbstractAsyncContextManager[Conversation]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what cannot be asked of HTTP: tests of what only a connection has are marked so."""
    items[:] = [item for item in items if not (_needs_connection(item) and _is_over_http(item))]


def _needs_connection(item: pytest.Item) -> bool:
    return item.get_closest_marker("connection") is not None


def _is_over_http(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and _params(item).get("connect") == "http"


def _params(item: pytest.Function) -> dict[str, object]:
    return item.callspec.params if hasattr(item, "callspec") else {}


@pytest.fixture(params=ROWS)
def connect(request: pytest.FixtureRequest) -> Connect:
    return ROWS[request.param]


@pytest.fixture
def simulator() -> Simulator:
    return Simulator()


@pytest.fixture
async def server(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(simulator, tmp_path) as started:
        yield started


@pytest.fixture
def talk(server: Server, connect: Connect) -> Talk:
    """Open a connection: `talk()` as Alice, `talk(server.bob)` as Bob."""

    @asynccontextmanager
    async def opened(key: str | None = None) -> AsyncIterator[Conversation]:
        async with connect(server, key or server.alice) as client:
            yield Conversation(client)

    return opened


@pytest.fixture
def model() -> Gated:
    return Gated()


@pytest.fixture
async def gated(model: Gated, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(model, tmp_path) as started:
        yield started


@pytest.fixture
async def chat(gated: Server, connect: Connect) -> AsyncIterator[Conversation]:
    async with connect(gated, gated.alice) as client:
        yield Conversation(client)
