"""What the operations port says to probes and scrapers."""

from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from transports.http import Address
from transports.operations import serve_operations


class Readiness:
    """An engine's readiness, set by the test."""

    ready = True

    def __call__(self) -> bool:
        return self.ready


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
async def client(readiness: Readiness) -> AsyncIterator[httpx.AsyncClient]:
    registry = CollectorRegistry()
    Counter("turnwire_turns", "Turns.", registry=registry).inc(3)
    server = await serve_operations(readiness, registry, Address("127.0.0.1", 0))
    url = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client
    await server.stop()


async def test_a_living_process_is_healthy_whether_or_not_it_is_ready(
    client: httpx.AsyncClient, readiness: Readiness
) -> None:
    readiness.ready = False
    assert (await client.get("/healthz")).status_code == 200


async def test_readiness_follows_the_engine(
    client: httpx.AsyncClient, readiness: Readiness
) -> None:
    assert (await client.get("/readyz")).status_code == 200
    readiness.ready = False
    assert (await client.get("/readyz")).status_code == 503


async def test_metrics_come_in_the_format_that_is_asked_for(client: httpx.AsyncClient) -> None:
    plain = await client.get("/metrics")
    assert plain.headers["Content-Type"].startswith("text/plain")
    assert "turnwire_turns_total 3.0" in plain.text
    accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
    modern = await client.get("/metrics", headers=accept)
    assert modern.headers["Content-Type"].startswith("application/openmetrics-text")
    assert modern.text.endswith("# EOF\n")


async def test_the_api_is_not_served_there(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/responses")).status_code == 404
