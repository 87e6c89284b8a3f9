"""One `Connect` stream: what the engine pushes, what the client sends, and who waits for whom.

A stream has one write in flight, gRPC's rule, and a message costs a hundred times what one more
event in it costs. So whatever is delivered during a write becomes the next message: nothing is held
back to grow, and a busy stream gathers by itself.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from service.connection import Connection
from service.errors import Ending, Refusal, SessionError
from service.limits import Limits
from transports.grpc_outbox import EVENTS_TAG, Outbox, writes_in
from transports.patience import Patience
from turnwire import json_codec
from turnwire.delta import Event
from turnwire.v1 import events_pb2
from turnwire.v1 import session_service_pb2 as rpc

Context: TypeAlias = grpc.aio.ServicerContext[bytes, bytes]
M = TypeVar("M", bound=Message)

_MOST_EVENTS = 1024  # in one ConnectRequest
_EVENTS_A_TICK = 64
_HEARTBEAT = rpc.ConnectResponse(heartbeat=rpc.Heartbeat()).SerializeToString()
_DRAIN = rpc.ConnectResponse(drain=rpc.Drain()).SerializeToString()


def parse(kind: type[M], data: bytes) -> M:
    """Read a message. gRPC itself would call bytes that are none a defect of this server."""
    try:
        return kind.FromString(data)
    except DecodeError:
        name = kind.DESCRIPTOR.full_name
        raise SessionError(Ending.INVALID_FRAME, f"The bytes are not a {name}.") from None


class Stream:
    """The engine's sink for one stream, and the loops that serve it."""

    def __init__(self, context: Context, limits: Limits) -> None:
        self._context = context
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox()
        self._trust = Patience(limits)
        self._in_flight = 0
        self._deadline = limits.send_deadline  # of the write in flight
        self._since = self._loop.time()  # the write in flight began, or the last one ended
        self._news, self._room = asyncio.Event(), asyncio.Event()
        self._patience: asyncio.Timeout | None = None  # of the writer, while it runs
        self._ended = False
        self._outcome: BaseException | None = None

    def deliver(self, events: Sequence[Event]) -> None:
        """Add events to the next message. Cuts a stream that is fed on and does not read."""
        if self._ended:
            return
        if self._trust.is_over(self._unsent):
            self._cut()
            return
        for event in events:
            self._outbox.add_event(event)
        self._news.set()

    @property
    def congested(self) -> bool:
        """Whether the model servers of this stream are to be held back."""
        return self._unsent > self._limits.outbound_bytes

    async def drained(self) -> None:
        """Wait until the stream is no longer congested, or is gone."""
        while self.congested:
            self._room.clear()
            await self._room.wait()

    def end(self, error: SessionError) -> None:
        """End the stream once all is written. A client that is to reconnect is told in-band."""
        if error.ending in (Ending.DRAIN, Ending.AGE) and not self._ended:
            self._outbox.add(_DRAIN)
        self._finish(error)

    async def run(self, requests: AsyncIterator[bytes], connection: Connection) -> None:
        """Serve the stream to its end, which is raised unless the client half-closed."""
        reading = asyncio.create_task(self._read(requests, connection))
        reading.add_done_callback(self._read_to_end)
        try:
            await self._write_to_end()
        except SessionError as error:
            connection.close(error.ending)
            raise
        except grpc.aio.BaseError:  # the call is over
            raise
        except Exception:
            connection.close(Ending.INTERNAL)
            raise
        finally:
            reading.cancel()
            self._release()
            connection.close(Ending.GONE)  # where nothing else was said

    async def _read(self, requests: AsyncIterator[bytes], connection: Connection) -> None:
        """Read whatever the turns do, so that leaving is noticed; half-closed, let them end."""
        async for data in requests:
            _check_count(data)
            for number, event in enumerate(parse(rpc.ConnectRequest, data).events, 1):
                _receive(event, connection)
                if number % _EVENTS_A_TICK == 0:
                    await asyncio.sleep(0)
            await self.drained()  # who does not read is not read from
        await connection.finished()

    def _read_to_end(self, reading: asyncio.Task[None]) -> None:
        if not reading.cancelled():
            self._finish(reading.exception())

    def _finish(self, outcome: BaseException | None) -> None:
        """Let the writer stop when all is written. What ended the stream first is its outcome."""
        if not self._ended:
            self._ended, self._outcome = True, outcome
            self._news.set()

    async def _write_to_end(self) -> None:
        # Tells the client that it is accepted. Not to be cut: gRPC could not say a status then.
        await self._context.send_initial_metadata(())
        try:
            async with asyncio.timeout(None) as self._patience:
                self._patrol()
                await self._write_all()
        except TimeoutError:
            message = "The client reads too slowly. Reconnect, and read while turns run."
            raise SessionError(Ending.SLOW_READER, message) from None
        finally:
            self._watch.cancel()
        if self._outcome:
            raise self._outcome

    async def _write_all(self) -> None:
        while self._outbox.size or not self._ended:
            if self._outbox.size:
                await self._write(self._outbox.take())
            else:
                self._news.clear()
                await self._news.wait()

    async def _write(self, message: bytes) -> None:
        self._in_flight, self._since = len(message), self._loop.time()
        self._deadline = self._limits.send_deadline * writes_in(message)
        await self._context.write(message)
        self._in_flight, self._since = 0, self._loop.time()
        if not self.congested:
            self._room.set()

    def _patrol(self) -> None:
        """Watch both deadlines, a little late: a timer a write costs a third of the write."""
        still = self._loop.time() - self._since
        if self._in_flight and still >= self._deadline:
            self._cut()
        elif not self._in_flight and still >= self._limits.ping_interval:
            self._outbox.add(_HEARTBEAT)
            self._news.set()
        pace = min(self._limits.send_deadline, self._limits.ping_interval) / 4
        self._watch = self._loop.call_later(pace, self._patrol)

    def _cut(self) -> None:
        """Stop the writer where it is."""
        if self._patience and self._patience.when() is None:
            self._patience.reschedule(self._loop.time())

    def _release(self) -> None:
        """Forget what nobody will read, and let go who waits for room."""
        self._ended = True
        self._in_flight = 0
        self._outbox = Outbox()
        self._room.set()

    @property
    def _unsent(self) -> int:
        return self._outbox.size + self._in_flight


def _check_count(data: bytes) -> None:
    """Refuse a request of very many events before it is parsed: empty ones cost two bytes each."""
    if data.count(EVENTS_TAG) <= _MOST_EVENTS:  # no more than this many, whatever the bytes mean
        return
    at = events = 0
    while at < len(data) and data[at] == EVENTS_TAG and events <= _MOST_EVENTS:
        length, at = _varint(data, at + 1)
        at += length
        events += 1
    if events > _MOST_EVENTS:
        message = f"A ConnectRequest may have at most {_MOST_EVENTS} events."
        raise SessionError(Ending.INVALID_FRAME, message)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read a number of protobuf's wire format; return it, and where it ends."""
    number = shift = 0
    while at < len(data):
        byte, at = data[at], at + 1
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    return number, at


def _receive(event: events_pb2.ClientEvent, connection: Connection) -> None:
    """Hand an event on as every transport would have read it."""
    try:
        connection.receive(json_codec.canonical(event))
    except json_codec.InvalidJson as invalid:
        stream_id = event.stream_id if event.HasField("stream_id") else None
        connection.refuse(Refusal.of_invalid(invalid), stream_id)
