"""Health as Kubernetes' probes see it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2

from transports.grpc_server import GrpcServer
from transports.health import Health, serve_health

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Probes:
    """A client of grpc.health.v1."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        codec = (
            health_pb2.HealthCheckRequest.SerializeToString,
            health_pb2.HealthCheckResponse.FromString,
        )
        self._check = channel.unary_unary("/grpc.health.v1.Health/Check", *codec)
        self._watch = channel.unary_stream("/grpc.health.v1.Health/Watch", *codec)

    async def statuses(self, *services: str) -> list[int]:
        requests = [health_pb2.HealthCheckRequest(service=name) for name in services]
        async with asyncio.timeout(10):
            return [(await self._check(request)).status for request in requests]

    async def watch(self, service: str) -> AsyncGenerator[int, None]:
        call = self._watch(health_pb2.HealthCheckRequest(service=service))
        async with asyncio.timeout(10):
            async for answer in call:
                yield answer.status


class Switch:
    """A question whose answer the test sets."""

    def __init__(self) -> None:
        self.on = False

    def __call__(self) -> bool:
        return self.on


@pytest.fixture
def ready() -> Switch:
    return Switch()


@pytest.fixture
async def probes(ready: Switch) -> AsyncIterator[Probes]:
    server = await serve_health(ready, "127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Probes(channel)
    await server.stop(0)


async def test_a_starting_server_is_alive_but_neither_started_nor_ready(
    probes: Probes,
) -> None:
    answers = await probes.statuses("live", "startup", "ready", "")
    assert answers == [SERVING, NOT_SERVING, NOT_SERVING, NOT_SERVING]


async def test_a_server_that_was_ready_once_stays_started(probes: Probes, ready: Switch) -> None:
    ready.on = True
    assert await probes.statuses("live", "startup", "ready", "") == [SERVING] * 4
    ready.on = False
    answers = await probes.statuses("live", "startup", "ready", "")
    assert answers == [SERVING, SERVING, NOT_SERVING, NOT_SERVING]


async def test_a_service_nobody_offers_is_not_found(
    probes: Probes,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await probes.statuses("turnwire.v9.Nothing")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


@pytest.fixture
async def watching(ready: Switch) -> AsyncIterator[Probes]:
    server = grpc.aio.server(handlers=[Health({"ready": ready}, watch_interval=0.01).handler()])
    listening = await GrpcServer.listen(server, "127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{listening.port}") as channel:
        yield Probes(channel)
    await listening.stop(0)


async def test_who_watches_is_told_of_every_change_and_of_nothing_else(
    watching: Probes, ready: Switch
) -> None:
    seen: list[int] = []
    async with contextlib.aclosing(watching.watch("ready")) as statuses:
        while len(seen) < 4:
            seen.append(await anext(statuses))
            ready.on = not ready.on
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING, SERVING]


async def test_who_watches_a_service_nobody_offers_is_told_so(watching: Probes) -> None:
    async with contextlib.aclosing(watching.watch("nothing")) as statuses:
        assert await anext(statuses) == SERVICE_UNKNOWN
