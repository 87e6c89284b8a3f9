"""grpc.health.v1, computed when it is asked for: no status is kept that could be forgotten."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import SERVICE_NAME

from transports.grpc_server import GrpcServer

_Context = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


class Health:
    """Answers `Check` and `Watch` for named services, each with a question of its own."""

    def __init__(
        self, services: Mapping[str, Callable[[], bool]], watch_interval: float = 1.0
    ) -> None:
        self._services = services
        self._watch_interval = watch_interval

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the calls of grpc.health.v1, for a server to offer."""
        codec = (
            health_pb2.HealthCheckRequest.FromString,
            health_pb2.HealthCheckResponse.SerializeToString,
        )
        calls = {
            "Check": grpc.unary_unary_rpc_method_handler(self._check, *codec),
            "Watch": grpc.unary_stream_rpc_method_handler(self._watch, *codec),
        }
        return grpc.method_handlers_generic_handler(SERVICE_NAME, calls)

    async def _check(
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "There is no service of that name.")
        return self._status(request.service)

    async def _watch(
        self, request: health_pb2.HealthCheckRequest, context: _Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Say the status now and at every change, until the client leaves."""
        del context
        said = None
        while True:
            if (status := self._status(request.service)) != said:
                yield status
                said = status
            await asyncio.sleep(self._watch_interval)

    def _status(self, service: str) -> health_pb2.HealthCheckResponse:
        if not (question := self._services.get(service)):
            return health_pb2.HealthCheckResponse(status="SERVICE_UNKNOWN")
        return health_pb2.HealthCheckResponse(status="SERVING" if question() else "NOT_SERVING")


async def serve_health(ready: Callable[[], bool], address: str) -> GrpcServer:
    """Serve health on its own plaintext port, as Kubernetes' probes want it."""
    health = Health({"": ready, "ready": ready, "startup": _Latch(ready), "live": _answers})
    server = grpc.aio.server(handlers=[health.handler()], options=[("grpc.so_reuseport", 0)])
    return await GrpcServer.listen(server, address)


class _Latch:
    """A question that stays answered: a server that was ready once has started."""

    def __init__(self, question: Callable[[], bool]) -> None:
        self._question = question
        self._answered = question()

    def __call__(self) -> bool:
        self._answered = self._answered or self._question()
        return self._answered


def _answers() -> bool:
    """Whoever gets this answer got it from a running event loop: that is all liveness means."""
    return True
