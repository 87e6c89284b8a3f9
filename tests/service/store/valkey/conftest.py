from collections.abc import AsyncIterator

import pytest
from prometheus_client import CollectorRegistry

from service.metrics import Metrics
from service.store.valkey import ValkeyVault
from tests.service.store.valkey.vaults import opened, shared
from tests.valkeys import ValkeyServer


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(CollectorRegistry())


@pytest.fixture
def server() -> ValkeyServer:
    server = shared("valkey-9")
    server.run("FLUSHALL")
    return server


@pytest.fixture
async def vault(server: ValkeyServer, metrics: Metrics) -> AsyncIterator[ValkeyVault]:
    async with opened(server.url, metrics=metrics) as vault:
        yield vault
