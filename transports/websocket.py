"""The WebSocket face: the Responses API's WebSocket mode on `/v1/responses`.

uvicorn parses HTTP and hands an upgraded socket over; from there this module is all there is
between the socket and the codec. RFC 6455 is `websockets`' sans-I/O protocol; this is its shell,
with the bounds and deadlines that such a layer cannot have.
"""

import asyncio
import email.utils
import http
import importlib.util
import logging
import struct
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import structlog
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.datastructures import Headers
from websockets.frames import CTRL_OPCODES, OP_BINARY, OP_CLOSE, OP_CONT, OP_TEXT, CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from service.engine import Connection, Engine
from service.errors import (
    Ending,
    Forbidden,
    NotFound,
    Overloaded,
    Refusal,
    SessionError,
    Unauthenticated,
)
from service.keys import Keys
from service.limits import Limits
from transports.keepalive import Wheel
from transports.status import STATUS
from turnwire import json_codec
from turnwire.delta import Event, to_json
from turnwire.v1 import events_pb2

PATHS: Final = ("/v1/responses", "/responses")

_FRAGMENTS: Final = 16_384  # of one message: empty ones cost no bytes, but time
_CONTROL_BURST: Final = 50
_CONTROL_RATE: Final = 10.0  # a second
_WRITE_BUFFER: Final = 64 * 1024  # what the event loop may buffer; the rest waits in the outbox
_COMMON: Final = 1024  # frames shorter than this take their header from a table
_HEADER_16: Final = struct.Struct("!BBH").pack
_HEADER_64: Final = struct.Struct("!BBQ").pack
_PATIENCE: Final = 4  # times `outbound_bytes`: what is more than this is not waited for

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)
_wire_logger = logging.getLogger(f"{__name__}.wire")
_wire_logger.setLevel(logging.ERROR)  # below that, `websockets` logs what frames contain


class MessageTooLarge(Refusal):
    """A message is larger than this server reads."""

    status = 413

    def __init__(self, limits: Limits) -> None:
        super().__init__(
            "message_too_large",
            f"A message may have at most {limits.message_bytes} bytes in {_FRAGMENTS} fragments. "
            "Send less of the conversation: previous_response_id stands for what was said before.",
        )


class InternalError(Refusal):
    """A defect of this server, which the client cannot do anything about."""

    status = 500
    type = "server_error"

    def __init__(self) -> None:
        super().__init__("server_error", "The server failed. Connect again.")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the connections of one server share."""

    engine: Engine
    keys: Keys
    limits: Limits
    wheel: Wheel

    def admit(self, request: Request) -> str:
        """Return the tenant that a handshake comes from. Raises `Refusal`."""
        if request.path.partition("?")[0] not in PATHS:
            raise NotFound("not_found", f"Nothing is here. Connect to {PATHS[0]}.")
        if not set(request.headers.get_all("Origin")) <= set(self.limits.allowed_origins):
            raise Forbidden(
                "origin_not_allowed",
                "This server does not accept connections from web pages of this origin. "
                "Its operator can allow the origin by name.",
            )
        authorizations = request.headers.get_all("Authorization")
        if len(authorizations) > 1:
            raise Unauthenticated
        return self.keys.tenant_of(authorizations[0] if authorizations else None)

    def count(self, refusal: Refusal) -> None:
        """Count who was turned away; the engine itself counts whom it has no room for."""
        if not isinstance(refusal, Overloaded):
            self.engine.rejected("websocket", _REJECTIONS.get(type(refusal), "invalid"))


class WebSocketConnection(asyncio.Protocol):
    """One client: the shell around `_Wire`, and the engine's `Sink`.

    uvicorn constructs it, announces the transport and feeds it the handshake request.
    """

    __slots__ = (
        "_connection",
        "_ended_at",
        "_ending",
        "_endpoint",
        "_fragments",
        "_heard_at",
        "_opcode",
        "_outbox",
        "_partial_since",
        "_pinged_at",
        "_registry",
        "_transport",
        "_wire",
    )

    _transport: asyncio.Transport
    _outbox: "_Outbox"

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
    ) -> None:
        del config, app_state
        self._endpoint = endpoint
        self._registry = cast("set[object]", server_state.connections)
        self._wire = _Wire(endpoint.limits)
        self._connection: Connection | None = None
        self._opcode = OP_TEXT
        self._fragments: list[bytes] = []  # of a message that comes in several frames
        self._ending: Ending | None = None  # once set, nothing more is read or delivered
        self._ended_at = self._heard_at = self._pinged_at = self._partial_since = 0.0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the socket. uvicorn waits at its end for what is in its registry."""
        self._transport = cast("asyncio.Transport", transport)
        self._outbox = _Outbox(self._transport, self._endpoint.limits.outbound_bytes)
        self._registry.add(self)
        self._endpoint.wheel.add(self)

    def data_received(self, data: bytes) -> None:
        """Read. The handshake request comes here too, whole."""
        now = _now()
        self._heard_at, self._pinged_at = now, 0.0
        try:
            self._wire.receive_data(data)
            for received in self._wire.events_received():
                self._take(received)
            self._follow_wire()
        except Exception as defect:  # noqa: BLE001 - a defect of ours ends one connection, not the server
            self._break(defect)
        self._send_wire()
        if not self._wire.receiving:
            self._partial_since = 0.0
        elif not self._partial_since:
            self._partial_since = now

    def eof_received(self) -> None:
        """End: a client that will not send any more is gone. The transport closes itself."""
        self._wire.receive_eof()
        self._follow_wire()
        self._send_wire()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        del exc
        self._endpoint.wheel.discard(self)
        self._registry.discard(self)
        self._ending = self._ending or Ending.GONE
        self._outbox.abandon()
        if self._connection is not None:
            self._connection.close(self._ending)
            self._connection = None
        self._wire.release()

    def pause_writing(self) -> None:
        """Keep back what is to be sent: the socket is full."""
        self._outbox.pause()

    def resume_writing(self) -> None:
        """Send what was kept back."""
        self._outbox.resume()

    def shutdown(self) -> None:
        """End because uvicorn stops; after a drain the engine has ended all connections before."""
        self.end(SessionError(Ending.DRAIN, "The server stops."))

    def tick(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        limits = self._endpoint.limits
        if self._ending is not None:
            if now - self._ended_at >= limits.send_deadline:
                self._transport.abort()
        elif self._outbox.overdue(now, limits.send_deadline):
            self._cut()
        elif self._partial_since and now - self._partial_since >= limits.receive_deadline:
            self._fail_with_words(Ending.IDLE, _too_slow(limits))
        elif self._pinged_at:
            if now - self._pinged_at >= limits.ping_timeout:
                self._fail(Ending.IDLE)
        elif now - self._heard_at >= limits.ping_interval:
            self._pinged_at = now
            self._wire.send_ping(b"")
            self._send_wire()

    # What the engine calls.

    def deliver(self, events: Sequence[Event]) -> None:
        """Send events, each as one text frame. What one loop tick delivers is one write."""
        if self._ending is not None:
            return
        if self._outbox.overfull:
            self._cut()
            return
        try:
            self._outbox.put([to_json(event) for event in events])
        except Exception as defect:  # noqa: BLE001 - the engine is promised that this never raises
            self._break(defect)

    @property
    def congested(self) -> bool:
        """Whether more is unsent than should be."""
        return self._outbox.congested

    async def drained(self) -> None:
        """Return when no longer congested, or when the connection is gone."""
        await self._outbox.drained()

    def end(self, error: SessionError) -> None:
        """Send what is unsent, then the close frame; the client has a while to answer it."""
        if self._ending is None:
            self._finish(error.ending)
            if self._wire.state is State.OPEN:  # not if the client's own close is being read
                self._wire.send_close(STATUS[error.ending].close_code, error.ending.value)
            self._send_wire()

    # The handshake.

    def _take(self, received: Request | Response | Frame) -> None:
        if isinstance(received, Frame):
            self._take_frame(received)
        elif isinstance(received, Request):
            self._shake_hands(received)

    def _shake_hands(self, request: Request) -> None:
        try:
            tenant = self._endpoint.admit(request)
            response = self._wire.accept(request)
            if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise _invalid_handshake()
            self._connection = self._endpoint.engine.connect(tenant, "websocket", self)
        except Refusal as refusal:
            self._turn_away(refusal)
        else:
            self._wire.send_response(response)

    def _turn_away(self, refusal: Refusal) -> None:
        """Answer the handshake with plain HTTP. Of an unreadable one the wire wants no more."""
        self._endpoint.count(refusal)
        response = plain_http(refusal)
        self._finish(Ending.GONE)
        if self._wire.eof_sent:
            self._transport.write(response.serialize())
        else:
            self._wire.send_response(response)

    # Messages.

    def _take_frame(self, frame: Frame) -> None:
        if self._ending is not None or frame.opcode in CTRL_OPCODES:
            return
        data, frame.data = bytes(frame.data), b""  # the parser keeps its last frame until the next
        if frame.opcode is not OP_CONT:
            self._opcode = frame.opcode
        if self._fragments or not frame.fin:
            self._fragments.append(data)
        if frame.fin:
            message = b"".join(self._fragments) if self._fragments else data
            self._fragments.clear()
            self._take_message(message)

    def _take_message(self, message: bytes) -> None:
        self._partial_since = 0.0
        if self._opcode is OP_BINARY:
            self._open.refuse(_binary())
        elif _is_utf8(message):
            self._receive(message)
        else:
            self._fail(Ending.INVALID_FRAME)

    def _receive(self, message: bytes) -> None:
        try:
            event = json_codec.decode(events_pb2.ClientEvent, message)
        except json_codec.InvalidJson as invalid:
            self._open.refuse(Refusal.of_invalid(invalid))
        else:
            self._open.receive(event)

    @property
    def _open(self) -> Connection:
        if self._connection is None:
            raise RuntimeError("a frame came before the handshake")
        return self._connection

    # The end.

    def _follow_wire(self) -> None:
        """End, if the wire has: the client closed or left, or broke a rule of the protocol."""
        if self._ending is not None or not self._wire.over:
            return
        if self._connection is None:
            self._turn_away(_invalid_handshake())
            return
        ending = self._wire.ending
        if ending is Ending.TOO_LARGE:
            self._connection.refuse(MessageTooLarge(self._endpoint.limits))
        elif ending is Ending.POLICY:
            self._connection.refuse(_too_many_control_frames())
        self._finish(ending)
        self._connection.close(ending)

    def _fail_with_words(self, ending: Ending, refusal: Refusal) -> None:
        self._open.refuse(refusal)
        self._fail(ending)

    def _fail(self, ending: Ending) -> None:
        """End for a reason that leaves nothing to listen to."""
        self._finish(ending)
        self._wire.fail(STATUS[ending].close_code, ending.value)
        self._send_wire()
        if self._connection is not None:
            self._connection.close(ending)

    def _cut(self) -> None:
        """Drop a client that does not read: it would not read a farewell either."""
        self._ending = Ending.SLOW_READER
        self._ended_at = _now()
        self._outbox.abandon()
        self._transport.abort()
        self._open.close(Ending.SLOW_READER)

    def _break(self, defect: Exception) -> None:
        """End for a defect. Log it without the exception's text, which may quote a client."""
        stack = "".join(traceback.format_tb(defect.__traceback__))
        _logger.error("connection_failed", defect=type(defect).__name__, stack=stack)
        if self._ending is not None:
            return
        if self._wire.state is State.CONNECTING:
            self._turn_away(InternalError())
        else:
            self._fail(Ending.INTERNAL)

    def _finish(self, ending: Ending) -> None:
        """Send what is unsent, and deliver nothing after it."""
        self._outbox.flush_all()
        self._ending = ending
        self._ended_at = _now()

    def _send_wire(self) -> None:
        """Send the wire's own frames: pings, pongs, close. Its empty string ends the stream."""
        for data in self._wire.data_to_send():
            if self._transport.is_closing():
                return
            if data:
                self._transport.write(data)
            elif self._transport.can_write_eof():
                self._transport.write_eof()  # only half: closing on unread bytes loses our last words
            else:
                self._transport.close()


class _Wire(ServerProtocol):
    """RFC 6455, with the bounds on control frames and fragments that it does not have."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(max_size=limits.message_bytes, logger=_wire_logger)
        self._continued = 0
        self._allowance = float(_CONTROL_BURST)
        self._allowed_at = 0.0

    @property
    def receiving(self) -> bool:
        """Whether a message has arrived in part."""
        return bool(self.reader.buffer) or self.current_size is not None

    @property
    def over(self) -> bool:
        """Whether the connection has ended, or could not begin."""
        return self.handshake_exc is not None or self.state > State.OPEN

    @property
    def ending(self) -> Ending:
        """Why it ended."""
        if self.close_rcvd is not None or self.close_sent is None:
            return Ending.GONE
        return _ENDINGS.get(self.close_sent.code, Ending.INTERNAL)

    def release(self) -> None:
        """Break the reference cycles of parser and exceptions: no garbage collection is needed."""
        self.parser.close()
        self.parser_exc = self.handshake_exc = None

    def recv_frame(self, frame: Frame) -> None:
        """Count what costs no bytes. `fail` here stops the parser, as a close frame does."""
        if frame.opcode is OP_CLOSE:
            self.current_size = None  # RFC 6455 5.5.1: also inside a fragmented message
        elif frame.opcode in CTRL_OPCODES:
            if not self._afford_control():
                self.fail(CloseCode.POLICY_VIOLATION, Ending.POLICY.value)
                return
        else:
            self._continued = self._continued + 1 if frame.opcode is OP_CONT else 0
            if self._continued >= _FRAGMENTS:
                self.fail(CloseCode.MESSAGE_TOO_BIG, Ending.TOO_LARGE.value)
                return
        super().recv_frame(frame)

    def _afford_control(self) -> bool:
        now = time.monotonic()
        earned = (now - self._allowed_at) * _CONTROL_RATE
        self._allowance = min(_CONTROL_BURST, self._allowance + earned) - 1
        self._allowed_at = now
        return self._allowance >= 0


class _Outbox:
    """What is on its way out: gathered for one loop tick, kept back while the socket is full."""

    __slots__ = (
        "_bound",
        "_drained",
        "_frames",
        "_held",
        "_limit",
        "_mark",
        "_marked_at",
        "_paused",
        "_queued",
        "_transport",
    )

    def __init__(self, transport: asyncio.Transport, limit: int) -> None:
        transport.set_write_buffer_limits(high=min(_WRITE_BUFFER, limit))
        self._transport = transport
        self._limit = limit
        self._bound = _PATIENCE * limit
        self._frames: list[bytes] = []
        self._held = 0  # bytes in `_frames`
        self._queued = 0  # bytes ever put in
        self._mark = 0  # what was queued at `_marked_at`
        self._marked_at = 0.0
        self._paused = False
        self._drained: asyncio.Event | None = None

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._held + self._transport.get_write_buffer_size()

    @property
    def congested(self) -> bool:
        """Whether that is more than it should be."""
        return self.unsent > self._limit

    @property
    def overfull(self) -> bool:
        """Whether more is kept back than even a sink that is fed while congested may hold."""
        return self._paused and self._held > self._bound

    def put(self, payloads: Sequence[bytes]) -> None:
        """Send each payload as a text frame, at the end of this loop tick."""
        frames, size = self._frames, 0
        if not frames and not self._paused:
            asyncio.get_running_loop().call_soon(self._flush)
        for payload in payloads:
            length = len(payload)
            header = _HEADERS[length] if length < _COMMON else _header(length)
            frames += (header, payload)
            size += len(header) + length
        self._held += size
        self._queued += size

    def pause(self) -> None:
        """Keep back what is put in."""
        self._paused = True

    def resume(self) -> None:
        """Send what was kept back."""
        self._paused = False
        self._flush()

    def flush_all(self) -> None:
        """Send everything, whether or not the socket is full: nothing will be put in after it."""
        if self._frames and not self._transport.is_closing():
            self._transport.write(b"".join(self._frames))
        self._frames = []
        self._held = 0

    def abandon(self) -> None:
        """Drop everything: nobody is there to read it."""
        self._frames = []
        self._held = 0
        if self._drained is not None:
            self._drained.set()

    def overdue(self, now: float, deadline: float) -> bool:
        """Tell whether bytes have waited for longer than the deadline. Progress starts it anew."""
        unsent = self.unsent
        if self._queued - unsent >= self._mark:
            self._mark, self._marked_at = self._queued, now
        return unsent > 0 and now - self._marked_at >= deadline

    async def drained(self) -> None:
        """Return when no longer congested, or abandoned."""
        while self.congested and not self._transport.is_closing():
            if self._drained is None or self._drained.is_set():
                self._drained = asyncio.Event()
            await self._drained.wait()

    def _flush(self) -> None:
        if not self._paused:
            self.flush_all()
        if self._drained is not None and not self.congested:
            self._drained.set()


_REJECTIONS: Final[dict[type[Refusal], str]] = {Unauthenticated: "auth", Forbidden: "origin"}
_ENDINGS: Final[dict[int, Ending]] = {
    CloseCode.PROTOCOL_ERROR: Ending.INVALID_FRAME,
    CloseCode.INVALID_DATA: Ending.INVALID_FRAME,
    CloseCode.POLICY_VIOLATION: Ending.POLICY,
    CloseCode.MESSAGE_TOO_BIG: Ending.TOO_LARGE,
}


def warn_if_slow() -> None:
    """Say so if the C code of `websockets` is missing: unmasking then takes 80 times as long."""
    if importlib.util.find_spec("websockets.speedups") is None:
        _logger.warning("websockets_speedups_missing")


def _header(length: int) -> bytes:
    """Return the header of an unmasked, final text frame."""
    if length < 126:
        return bytes((0x81, length))
    if length < 65536:
        return _HEADER_16(0x81, 126, length)
    return _HEADER_64(0x81, 127, length)


_HEADERS: Final = tuple(map(_header, range(_COMMON)))


def plain_http(refusal: Refusal) -> Response:
    """Say a refusal in plain HTTP."""
    body = refusal.body()
    headers = Headers(
        {
            "Date": email.utils.formatdate(usegmt=True),
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }
    )
    if isinstance(refusal, Overloaded):
        headers["Retry-After"] = "5"
    if isinstance(refusal, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(refusal.status, http.HTTPStatus(refusal.status).phrase, headers, body)


def _invalid_handshake() -> Refusal:
    return Refusal("invalid_handshake", "This is not a WebSocket handshake (RFC 6455, version 13).")


def _binary() -> Refusal:
    return Refusal("invalid_frame_type", "Send each event as one JSON object in a text frame.")


def _too_slow(limits: Limits) -> Refusal:
    return Refusal(
        "message_timeout",
        f"A message must arrive within {limits.receive_deadline:g} seconds. "
        "Send less at once: previous_response_id stands for what was said before.",
    )


def _too_many_control_frames() -> Refusal:
    return Refusal("too_many_control_frames", f"Send at most {_CONTROL_RATE:g} pings a second.")


def _is_utf8(data: bytes) -> bool:
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _now() -> float:
    return asyncio.get_running_loop().time()
