"""The operations port: health, readiness and metrics, on an address of its own.

It is for the machinery around the service and not for clients: it asks for no key.
"""

from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from service.errors import Refusal
from service.limits import Limits
from transports.http import Address, HttpServer, Port, configure, wheel_for


async def serve_operations(
    engine_ready: Callable[[], bool], registry: CollectorRegistry, address: Address
) -> HttpServer:
    """Serve `/healthz`, `/readyz` and `/metrics`."""
    limits = Limits()
    app = operations(engine_ready, registry)
    port = Port(limits, wheel_for(limits), _nothing)
    return await HttpServer.start(configure(app, port), address)


def operations(engine_ready: Callable[[], bool], registry: CollectorRegistry) -> Starlette:
    """Return the operations application."""

    async def healthz(request: Request) -> Response:
        del request
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        del request
        if engine_ready():
            return PlainTextResponse("ready\n")
        return PlainTextResponse("not ready: full or draining\n", 503)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), headers={"Content-Type": content_type})

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ]
    )


def _nothing(refusal: Refusal) -> None:
    """Count nothing: here are no clients."""
