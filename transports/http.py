"""The HTTP port: uvicorn inside our own event loop, which hands WebSockets to our protocol class.

uvicorn keeps no time while a request arrives or an answer is not read; `_BoundedHttp` adds the
deadlines, and the bound on a request's head. Signals and logging stay with the composition root.
"""

import asyncio
import functools
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Self, cast

from starlette.types import ASGIApp
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.engine import Engine
from service.errors import Ending, Refusal
from service.identity import Identities
from service.limits import Limits
from transports.endpoint import Endpoint, plain_http
from transports.http_api import api
from transports.keepalive import Wheel
from transports.refusals import TooSlow, count_refused
from transports.tls import Shown, Tls, shown_to
from transports.tls_connection import TlsConnection
from transports.websocket import WebSocketConnection, warn_if_slow

_HEAD_BYTES: Final = 64 * 1024
_STOP_SECONDS: Final = 15
_UNSENT: Final = 128 * 1024  # bytes that the kernel may hold and not have sent
_PROGRESS: Final = 64 * 1024  # bytes that a client must have read of what waits, each deadline


class Address(NamedTuple):
    """Where to listen. Port 0 is any free one."""

    host: str
    port: int


class Port(NamedTuple):
    """What the connections of a port have in common; `refused` counts what HTTP itself refuses."""

    limits: Limits
    wheel: Wheel
    refused: Callable[[Refusal], None]


class Handshake(NamedTuple):
    """How TLS begins on a port, and how many seconds it may take."""

    context: ssl.SSLContext
    deadline: float


class HeadTooLarge(Refusal):
    """A request's head is larger than any client of ours sends."""

    status = 431

    def __init__(self) -> None:
        super().__init__("head_too_large", f"Headers may have at most {_HEAD_BYTES} bytes.")


class HttpServer:
    """A server that listens, until it is stopped."""

    def __init__(self, server: Server, port: int) -> None:
        self._server = server
        self._clock = asyncio.create_task(server.main_loop())
        self.port = port

    @classmethod
    async def start(
        cls, config: Config, address: Address, handshake: Handshake | None = None
    ) -> Self:
        """Listen, with TLS if there is a handshake. Raises `OSError` if the address cannot be had."""
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            listener = socket.create_server(address, family=family)
        except OSError as error:
            raise OSError(
                f"Cannot listen on {address.host}:{address.port}: {error.strerror}"
            ) from error
        bound_unsent(listener)
        config.load()
        server = Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[])  # it would give handshakes a minute
        server.servers.append(await _listen(server, listener, handshake))
        return cls(server, listener.getsockname()[1])

    async def stop(self) -> None:
        """Accept no more, end what is open, and wait a bounded time for it to close."""
        self._clock.cancel()
        await asyncio.wait([self._clock])
        await self._server.shutdown()


async def serve(
    engine: Engine,
    identities: Identities,
    limits: Limits,
    address: Address,
    tls: Tls | None = None,
) -> HttpServer:
    """Serve the API, over WebSockets and HTTP."""
    warn_if_slow()
    endpoint = Endpoint(engine, identities, limits, wheel_for(limits))
    return await serve_endpoint(endpoint, address, tls)


async def serve_endpoint(
    endpoint: Endpoint, address: Address, tls: Tls | None = None
) -> HttpServer:
    """Serve the API with an endpoint that the caller keeps hold of."""

    def refused(refusal: Refusal) -> None:
        count_refused(endpoint.engine, "http", refusal)

    config = configure(api(endpoint), Port(endpoint.limits, endpoint.wheel, refused))
    config.ws = cast("type[asyncio.Protocol]", functools.partial(WebSocketConnection, endpoint))
    deadline = endpoint.limits.handshake_deadline
    handshake = Handshake(tls.context(), deadline) if tls else None
    return await HttpServer.start(config, address, handshake)


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


def configure(app: ASGIApp, port: Port) -> Config:
    """Return what uvicorn is to do: HTTP and nothing else."""
    return Config(
        app,
        http=cast("type[asyncio.Protocol]", functools.partial(_BoundedHttp, port)),
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


def bound_unsent(listener: socket.socket) -> None:
    """Have the kernel take little more than it can send, on every connection that is accepted.

    It would take megabytes at once otherwise, and between two such steps a client that reads slowly and
    steadily could not be told from one that does not read.
    """
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # not on every platform
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)


async def _listen(
    server: Server, listener: socket.socket, handshake: Handshake | None
) -> asyncio.Server:
    """Accept connections, each for a protocol as uvicorn makes it."""
    config = server.config
    protocol = functools.partial(
        cast("Callable[..., asyncio.Protocol]", config.http_protocol_class),
        config=config,
        server_state=server.server_state,
        app_state=server.lifespan.state,
    )
    listen = functools.partial(
        asyncio.get_running_loop().create_server, sock=listener, backlog=config.backlog
    )
    if handshake is None:
        return await listen(protocol)
    return await listen(
        lambda: TlsConnection(protocol()),
        ssl=handshake.context,
        ssl_handshake_timeout=handshake.deadline,
        ssl_shutdown_timeout=handshake.deadline,
    )


class _Client:
    """A client as exchanges see it: uvicorn's protocol object should have no way back to itself."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.ending = Ending.GONE

    def cut(self, ending: Ending) -> None:
        """Drop the client, unsent bytes and all."""
        self.ending = ending
        self._transport.abort()


class _BoundedHttp(HttpToolsProtocol):
    """uvicorn's HTTP, for clients that send their requests slowly or never, or do not read answers.

    The application finds the client, and what TLS knows of it, in the state of its requests.
    """

    _client: _Client
    _shown: Shown

    def __init__(
        self,
        port: Port,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = port.limits
        self._wheel = port.wheel
        self._refused = port.refused
        self._deadline = 0.0  # none
        self._head = 0  # bytes of a head that is not complete
        self._unread = 0  # bytes of answers, at `_unread_at`
        self._unread_at = 0.0  # never, if everything is read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._client = _Client(transport)
        self._shown = shown_to(transport)
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
        self.scope["state"].update(client=self._client, shown=self._shown)
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

    def resume_writing(self) -> None:
        """Go on: the client has read."""
        self._unread_at = 0.0
        super().resume_writing()

    def tick(self, now: float) -> None:
        """Drop a client whose request does not arrive, or who does not read its answer."""
        if self._is_stuck(now):
            self._client.cut(Ending.SLOW_READER)
        elif self.flow.read_paused or self.pipeline:  # it is not heard, or not its turn
            self._deadline = self._deadline and now + self._limits.receive_deadline
        elif self._deadline and now >= self._deadline:
            self._give_up()

    def _is_stuck(self, now: float) -> bool:
        """Tell whether unsent bytes have waited for longer than the deadline.

        A client that reads on starts it anew, unless it only trickles. How much it has read shows
        while nothing is added; what an answer under way adds below the socket's mark is no matter.
        """
        unread = self.transport.get_write_buffer_size()
        adding = self._answering and not self.flow.write_paused
        if not unread or adding:
            self._unread_at = 0.0
        elif not self._unread_at or self._unread - unread >= _PROGRESS:
            self._unread, self._unread_at = unread, now
        return bool(self._unread_at) and now - self._unread_at >= self._limits.send_deadline

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _give_up(self) -> None:
        """Drop a client whose request does not arrive; one whose head has is told why."""
        if self._answering:
            self._turn_away(TooSlow(self._limits))
        else:
            self.transport.abort()

    def _turn_away(self, refusal: Refusal) -> None:
        """Refuse in words and close; into an answer that is under way no words can be put."""
        if self._answering and (self.cycle.response_started or self.pipeline):
            self.transport.abort()
            return
        if self._answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._refused(refusal)
        self.transport.write(plain_http(refusal).serialize())
        self.transport.close()

    def _allow(self, seconds: float) -> None:
        self._deadline = self.loop.time() + seconds
