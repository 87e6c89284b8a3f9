"""The WebSocket face: the Responses API's WebSocket mode on `/v1/responses`.

uvicorn parses HTTP and hands an upgraded socket over; from there this is all there is between the
socket and the codec: a shell around `Wire`, which knows RFC 6455, with the deadlines that such a
layer cannot have.
"""

import asyncio
import http
import importlib.util
import traceback
from collections.abc import Sequence
from typing import cast

import structlog
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import CTRL_OPCODES, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State

from service.connection import Connection
from service.errors import Ending, Failed, Refusal, SessionError
from transports.endpoint import Endpoint, plain_http
from transports.refusals import MessageTooLarge, TooSlow, count_refused, count_rejected
from transports.status import STATUS
from transports.tls import shown_to
from transports.websocket_handshake import admit, agree, invalid_handshake
from transports.websocket_inbox import Inbox
from transports.websocket_outbox import Outbox
from transports.websocket_wire import CONTROL_RATE, FRAGMENTS, Wire
from turnwire import json_codec
from turnwire.delta import Event, to_json
from turnwire.strict_json import parse_object
from turnwire.v1 import events_pb2

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class WebSocketConnection(asyncio.Protocol):
    """One client: the shell around `Wire`, and the engine's `Sink`.

    uvicorn constructs it, announces the transport and feeds it the handshake request.
    """

    __slots__ = (
        "_connection",
        "_ended_at",
        "_ending",
        "_endpoint",
        "_fragments",
        "_heard_at",
        "_inbox",
        "_opcode",
        "_outbox",
        "_partial_since",
        "_pinged_at",
        "_registry",
        "_transport",
        "_wire",
    )

    _transport: asyncio.Transport
    _inbox: Inbox
    _outbox: Outbox

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
        self._wire = Wire(endpoint.limits)
        self._connection: Connection | None = None
        self._opcode = Opcode.TEXT
        self._fragments: list[bytes] = []  # of a message that comes in several frames
        self._ending: Ending | None = None  # once set, nothing more is read or delivered
        self._ended_at = self._heard_at = self._pinged_at = self._partial_since = 0.0

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take over the socket. uvicorn waits at its end for what is in its registry."""
        self._transport = cast("asyncio.Transport", transport)
        self._outbox = Outbox(self._transport, self._endpoint.limits)
        self._inbox = Inbox(self._transport, self._outbox, self._read)
        self._registry.add(self)
        self._endpoint.wheel.add(self)

    def data_received(self, data: bytes) -> None:
        """Read. The handshake request comes here too, whole."""
        self._heard_at, self._pinged_at = _now(), 0.0
        self._inbox.put(data)

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
        self._inbox.abandon()
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
        self._inbox.resume()

    def shutdown(self) -> None:
        """End because uvicorn stops; after a drain the engine has ended all connections before."""
        self.end(SessionError(Ending.DRAIN, "The server stops."))

    def tick(self, now: float) -> None:
        """Act on the deadlines that have passed."""
        limits = self._endpoint.limits
        if (
            self._inbox.held_up
        ):  # what the client says is not heard: it cannot be blamed for silence
            self._heard_at, self._pinged_at, self._partial_since = now, 0.0, 0.0
        if self._ending is not None:
            if now - self._ended_at >= limits.send_deadline:
                self._transport.abort()
        elif self._outbox.overdue(now, limits.send_deadline):
            self._cut()
        elif self._partial_since and now - self._partial_since >= limits.receive_deadline:
            self._fail_with_words(Ending.IDLE, TooSlow(limits))
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

    # Reading.

    def _read(self, part: memoryview) -> int:
        """Read a part of what has come, and return how many frames ended in it."""
        events: Sequence[Request | Response | Frame] = ()
        try:
            self._wire.receive_data(part)  # type: ignore[arg-type]  # any bytes-like object will do
            events = self._wire.events_received()
            for received in events:
                self._take(received)
            self._follow_wire()
        except Exception as defect:  # noqa: BLE001 - a defect of ours ends one connection, not the server
            self._break(defect)
        self._send_wire()
        if not self._wire.receiving:
            self._partial_since = 0.0
        elif not self._partial_since:
            self._partial_since = self._heard_at
        return len(events)

    # The handshake.

    def _take(self, received: Request | Response | Frame) -> None:
        if isinstance(received, Frame):
            self._take_frame(received)
        elif isinstance(received, Request):
            self._shake_hands(received)

    def _shake_hands(self, request: Request) -> None:
        try:
            caller = admit(self._endpoint, request, shown_to(self._transport))
            response = self._wire.accept(request)
            if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
                raise invalid_handshake()
            self._connection = self._endpoint.engine.connect(caller, "websocket", self)
        except Refusal as refusal:
            self._turn_away(refusal)
        else:
            agree(request, response)
            self._wire.send_response(response)

    def _turn_away(self, refusal: Refusal) -> None:
        """Answer the handshake with plain HTTP. Of an unreadable one the wire wants no more."""
        count_refused(self._endpoint.engine, "websocket", refusal)
        count_rejected(self._endpoint.engine, "websocket", refusal)
        response = plain_http(refusal)
        self._finish(Ending.GONE)
        if self._wire.eof_sent:
            self._wire.data_to_send()  # newer releases of `websockets` answer too, in plain text
            self._transport.write(response.serialize())
            self._half_close()
        else:
            self._wire.send_response(response)

    # Messages.

    def _take_frame(self, frame: Frame) -> None:
        if self._ending is not None or frame.opcode in CTRL_OPCODES:
            return
        data, frame.data = bytes(frame.data), b""  # the parser keeps its last frame until the next
        if frame.opcode is not Opcode.CONT:
            self._opcode = frame.opcode
        if self._fragments or not frame.fin:
            self._fragments.append(data)
        if frame.fin:
            message = b"".join(self._fragments) if self._fragments else data
            self._fragments.clear()
            self._take_message(message)

    def _take_message(self, message: bytes) -> None:
        self._partial_since = 0.0
        if self._opcode is Opcode.BINARY:
            self._open.refuse(_binary())
        elif _is_utf8(message):
            self._receive(message)
        else:
            self._fail(Ending.INVALID_FRAME)

    def _receive(self, message: bytes) -> None:
        try:
            event = json_codec.decode(events_pb2.ClientEvent, message)
        except json_codec.InvalidJson as invalid:
            self._open.refuse(Refusal.of_invalid(invalid), _lane_of(message))
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
            self._turn_away(invalid_handshake())
            return
        ending = self._wire.ending
        if ending is Ending.TOO_LARGE:
            self._connection.refuse(self._too_large())
        elif ending is Ending.POLICY:
            self._connection.refuse(_too_many_control_frames())
        self._finish(ending)
        self._connection.close(ending)

    def _too_large(self) -> Refusal:
        most = self._endpoint.limits.message_bytes
        return MessageTooLarge(f"{most} bytes in {FRAGMENTS} fragments")

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
            self._turn_away(Failed())
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
            else:
                self._half_close()

    def _half_close(self) -> None:
        """Say that nothing follows. Closing on unread bytes would lose our last words."""
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()


def warn_if_slow() -> None:
    """Say so if the C code of `websockets` is missing: unmasking then takes 80 times as long."""
    if importlib.util.find_spec("websockets.speedups") is None:
        _logger.warning("websockets_speedups_missing")


def _binary() -> Refusal:
    return Refusal("invalid_frame_type", "Send each event as one JSON object in a text frame.")


def _too_many_control_frames() -> Refusal:
    return Refusal("too_many_control_frames", f"Send at most {CONTROL_RATE:g} pings a second.")


def _lane_of(message: bytes) -> str | None:
    """Return the lane that an unreadable event was meant for, as far as it can be read."""
    try:
        stream_id = parse_object(message).get("stream_id")
    except json_codec.InvalidJson:
        return None
    return stream_id if isinstance(stream_id, str) else None


def _is_utf8(data: bytes) -> bool:
    try:
        str(data, "utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _now() -> float:
    return asyncio.get_running_loop().time()
