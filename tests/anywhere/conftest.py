"""Fixtures: two replicas over a real Valkey, behind a real Envoy. They start once for each module."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.anywhere.prompts import Prompts, told_by
from tests.llama_servers import KEY, LlamaServer, tiny_weights
from tests.replicas.fleet import Fleet, fleet
from tests.valkeys import ValkeyServer, running

__all__ = ["tiny_weights"]  # a fixture, for this package too


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with running("valkey-9") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def simulated(
    valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    """With the simulator as their model."""
    folder = tmp_path_factory.mktemp("simulated")
    async with fleet(folder, valkey.url, {"grace_seconds": "30"}) as running_fleet:
        yield running_fleet


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prompts(tiny_weights: Path) -> AsyncIterator[Prompts]:
    """What a real model server is told from now on."""
    server = LlamaServer(weights=tiny_weights, alias="tiny", key=KEY, context=8192, slots=2)
    with server.running() as url:
        async with told_by(url) as prompts:
            yield prompts


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(
    valkey: ValkeyServer, prompts: Prompts, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    """With a real llama.cpp as their model server, which is told token ids."""
    folder = tmp_path_factory.mktemp("real")
    settings = {"backend": "llama.cpp", "backend_url": prompts.url, "backend_api_key": KEY}
    async with fleet(folder, valkey.url, settings) as running_fleet:
        yield running_fleet
