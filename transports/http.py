"""The HTTP port: uvicorn inside our own event loop, which hands WebSockets to our protocol class.

uvicorn keeps no time before a request is complete; `_BoundedHttp` adds the deadlines and the bound
on its head. Signals and logging stay with the composition root.
"""

import asyncio
import functools
import logging
import socket
from typing import Any, Final, NamedTuple, Self, cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.engine import Engine
from service.errors import NotFound, Refusal, Unauthenticated
from service.keys import Keys
from service.limits import Limits
from transports.keepalive import Wheel
from transports.websocket import WebSocketConnection, warn_if_slow
from transports.websocket_handshake import PATHS, Endpoint, plain_http

_HEAD_BYTES: Final = 64 * 1024
_STOP_SECONDS: Final = 15


class Address(NamedTuple):
    """Where to listen. Port 0 is any free one."""

    host: str
    port: int


class UpgradeRequired(Refusal):
    """The resource is a WebSocket."""

    status = 426

    def __init__(self) -> None:
        super().__init__(
            "upgrade_required",
            "This is a WebSocket: connect to it with a WebSocket client (wss:// or ws://).",
        )


class HeadTooLarge(Refusal):
    """A request's head is larger than any client of ours sends."""

    status = 431

    def __init__(self) -> None:
        super().__init__("head_too_large", f"Headers may have at most {_HEAD_BYTES} bytes.")


_WEBSOCKET_ONLY: Final = Refusal(
    "unsupported_transport",
    f"Responses are served over WebSocket: connect to {PATHS[0]}. Plain HTTP is not supported yet.",
)
"""400, because clients that fall back to HTTP retry most other statuses."""


class HttpServer:
    """A server that listens, until it is stopped."""

    def __init__(self, server: Server, port: int) -> None:
        self._server = server
        self._clock = asyncio.create_task(server.main_loop())
        self.port = port

    @classmethod
    async def start(cls, config: Config, address: Address) -> Self:
        """Listen. Raises `OSError` if the address cannot be had."""
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            listener = socket.create_server(address, family=family)
        except OSError as error:
            raise OSError(
                f"Cannot listen on {address.host}:{address.port}: {error.strerror}"
            ) from error
        config.load()
        server = Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listener])
        return cls(server, listener.getsockname()[1])

    async def stop(self) -> None:
        """Accept no more, end what is open, and wait a bounded time for it to close."""
        self._clock.cancel()
        await asyncio.wait([self._clock])
        await self._server.shutdown()


async def serve(engine: Engine, keys: Keys, limits: Limits, address: Address) -> HttpServer:
    """Serve the API: WebSockets now; what else there is answers 404 in the API's shape."""
    warn_if_slow()
    return await serve_endpoint(Endpoint(engine, keys, limits, wheel_for(limits)), address)


async def serve_endpoint(endpoint: Endpoint, address: Address) -> HttpServer:
    """Serve the API with an endpoint that the caller keeps hold of."""
    config = configure(api(endpoint.keys), endpoint.limits, endpoint.wheel)
    config.ws = cast("type[asyncio.Protocol]", functools.partial(WebSocketConnection, endpoint))
    return await HttpServer.start(config, address)


def wheel_for(limits: Limits) -> Wheel:
    """Return a wheel that turns once a second, or faster where a deadline is short."""
    shortest = min(
        limits.send_deadline,
        limits.receive_deadline,
        limits.handshake_deadline,
        limits.ping_interval,
        limits.ping_timeout,
    )
    return Wheel(min(1.0, shortest / 4))


def configure(app: ASGIApp, limits: Limits, wheel: Wheel) -> Config:
    """Return what uvicorn is to do: HTTP and nothing else."""
    return Config(
        app,
        http=cast("type[asyncio.Protocol]", functools.partial(_BoundedHttp, limits, wheel)),
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        log_level=logging.ERROR,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )


def api(keys: Keys) -> Starlette:
    """Return the HTTP face: it says what to do instead."""

    async def post(request: Request) -> Response:
        try:
            keys.tenant_of(request.headers.get("Authorization"))
        except Unauthenticated as refusal:
            return say(refusal)
        return say(_WEBSOCKET_ONLY)

    app = Starlette(
        routes=[
            *(Route(path, _upgrade_required) for path in PATHS),
            *(Route(path, post, methods=["POST"]) for path in PATHS),
        ],
        exception_handlers={404: _not_found, 405: _not_found},
    )
    app.router.redirect_slashes = False
    return app


def say(refusal: Refusal) -> Response:
    """Say a refusal in HTTP."""
    return Response(refusal.body(), refusal.status, media_type="application/json")


async def _upgrade_required(request: Request) -> Response:
    del request
    response = say(UpgradeRequired())
    response.headers["Upgrade"] = "websocket"
    response.headers["Connection"] = "Upgrade"
    return response


async def _not_found(request: Request, error: Exception) -> Response:
    del request, error
    return say(NotFound("not_found", f"Nothing is here. Connect a WebSocket to {PATHS[0]}."))


class _BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP, for clients that send their requests slowly or never."""

    def __init__(
        self,
        limits: Limits,
        wheel: Wheel,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._wheel = wheel
        self._deadline = 0.0  # none
        self._head = 0  # bytes of a head that is not complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wheel.add(self)
        self._allow(self._limits.handshake_deadline)

    def connection_lost(self, exc: Exception | None) -> None:
        self._wheel.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._head > _HEAD_BYTES and not self.transport.is_closing():
            self._turn_away(HeadTooLarge())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._allow(self._limits.handshake_deadline)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        self._allow(self._limits.receive_deadline)

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._head = 0

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._head = 0
        self._deadline = 0.0

    def handle_websocket_upgrade(self) -> None:
        self._wheel.discard(self)
        super().handle_websocket_upgrade()
        del self.parser  # it refers back to this object, which nobody needs any more

    def send_400_response(self, msg: str) -> None:
        self._turn_away(Refusal("invalid_http_request", msg))

    def tick(self, now: float) -> None:
        """Drop a client whose request does not arrive."""
        if self._deadline and now >= self._deadline:
            self.transport.abort()

    def _turn_away(self, refusal: Refusal) -> None:
        self.transport.write(plain_http(refusal).serialize())
        self.transport.close()

    def _allow(self, seconds: float) -> None:
        self._deadline = self.loop.time() + seconds
