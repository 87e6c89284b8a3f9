"""A real upstream: Turnwire itself, with the simulator behind it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.backends.simulator.backend import Simulator, Speed
from tests.conformance.server import Server, serving
from tests.stand_ins.cut import Cut, cut


@dataclass(frozen=True)
class Upstream:
    simulator: Simulator
    server: Server
    wire: Cut
    """The way to it."""

    @property
    def url(self) -> str:
        return self.wire.url

    @property
    def key(self) -> str:
        return self.server.alice

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[Upstream]:
    simulator = Simulator(speed=Speed())
    async with serving(simulator, tmp_path) as server:
        address = server.websocket_url.removesuffix("/v1/responses").replace("ws", "http", 1)
        async with cut(address) as wire:
            yield Upstream(simulator, server, wire)
