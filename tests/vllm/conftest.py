"""One vLLM for the whole suite, each adapter in front of it in turn."""

import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from service.backends import Backend
from tests.vllm.lab import Lab
from tests.vllm.rows import ROWS, Proofs, Row
from tests.vllm.tap import Tap, tapped

PLACE = os.environ.get("TEST_VLLM")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if PLACE is None:
        skip = pytest.mark.skip(reason="needs a real vLLM: make test-vllm")
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(skip)


class Server(NamedTuple):
    """A vLLM that runs, and the row that is in front of it."""

    row: Row
    port: int
    model: Path


class Front(NamedTuple):
    """An adapter that has started, and what can be seen of it."""

    backend: Backend
    row: Row
    port: int
    tap: Tap
    proofs: Proofs


class Servers:
    """The servers that were needed so far, one at a time: they share few cores."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._face = ""
        self._port = 0
        self._running = contextlib.ExitStack()

    def port_of(self, face: str) -> int:
        """Return where one listens."""
        if face != self._face:
            self.close()
            self._port = self._running.enter_context(self.lab.serve(face))
            self._face = face
        return self._port

    def close(self) -> None:
        """End what runs."""
        self._running.close()
        self._face = ""


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    lab = Lab(Path(PLACE or "").expanduser().absolute())
    lab.set_up()
    servers = Servers(lab)
    yield servers
    servers.close()


@pytest.fixture(scope="session", params=ROWS, ids=lambda row: row.name)
def server(request: pytest.FixtureRequest, servers: Servers) -> Server:
    row: Row = request.param
    return Server(row, servers.port_of(row.face), servers.lab.model)


@pytest.fixture
async def front(server: Server) -> AsyncIterator[Front]:
    proofs = Proofs([])
    async with tapped(server.port) as tap:
        backend = server.row.make(tap.port, server.model, proofs)
        await backend.start()
        yield Front(backend, server.row, server.port, tap, proofs)
        await backend.stop()
