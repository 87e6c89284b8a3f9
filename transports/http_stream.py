"""Server-sent events: a response's events as they happen, or as they are told again.

They are written as fast as the client reads them; what is unsent is bounded.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

import structlog
from starlette.types import Receive, Scope, Send

from service.errors import Ending, Failed, Refusal, SessionError
from service.limits import Limits
from transports.http_exchange import Client, Exchange
from transports.patience import Patience
from turnwire.delta import Delta, Event, is_last, to_json
from turnwire.v1 import events_pb2

_TYPE_AT: Final = len(b'{"type":"')  # the codec writes the type first
_KEEPALIVE: Final = b": keepalive\n\n"
_DONE: Final = b"data: [DONE]\n\n"
_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # nginx would gather events otherwise
]
_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Streamed(Exchange):
    """Answers with server-sent events, one write each, as fast as the client reads them."""

    def __init__(self, client: Client, limits: Limits) -> None:
        super().__init__(client)
        self._limit = limits.outbound_bytes
        self._patience = Patience(limits)
        self._number = -1  # of the last event
        self._farewell = _DONE
        self._frames: deque[bytes] = deque()
        self._held = 0  # bytes in `_frames`, and in the one that is being written
        self._begun = False
        self._room = asyncio.Event()

    def deliver(self, events: Sequence[Event]) -> None:
        """Send events. A client far behind is cut: it is being waited for, and yet there is more."""
        if self._over:
            return
        if self._patience.is_over(self._held):
            self._client.cut(Ending.SLOW_READER)
            self._forget()
            return
        try:
            self._put(events)
        except Exception:  # the engine is promised that this never raises
            _logger.exception("delivery_failed")
            self._refuse(Failed())

    def refuse(self, refusal: Refusal) -> None:
        """End with a refusal, unless the end was told."""
        if not self._over:
            self._refuse(refusal)

    @property
    def over(self) -> bool:
        """Whether nothing more is taken."""
        return self._over

    @property
    def congested(self) -> bool:
        """Whether more is unsent than should be."""
        return self._held > self._limit

    async def drained(self) -> None:
        """Return when no longer congested, or when the client is gone."""
        while self.congested:
            self._room.clear()
            await self._room.wait()

    def finish(self) -> None:
        """Take nothing more; what is unsent is still sent."""
        self._over = True
        self._news.set()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._write(send)
        while not self._over:
            self._news.clear()
            await self._news.wait()
            await self._write(send)
        await send({"type": "http.response.body", "body": self._farewell, "more_body": False})

    async def _write(self, send: Send) -> None:
        while self._frames:
            frame = self._frames.popleft()
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            self._held -= len(frame)
            if not self.congested:
                self._room.set()

    def _put(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Delta):
                self._tell(event)
            elif self._take(event):
                return
        self._news.set()

    def _take(self, event: events_pb2.ServerEvent) -> bool:
        """Send an event that is no delta; tell whether it was the last."""
        kind = event.WhichOneof("kind")
        if kind == "error" and not self._begun:
            self._refuse(Refusal.of(event.error))
            return True
        if kind == "keepalive":
            self._add(_KEEPALIVE)
        else:
            self._tell(self._failing(event) if kind == "error" else event)
        if is_last(event):
            self.finish()
        return self._over

    def _tell(self, event: Event) -> None:
        self._number = event.sequence_number
        self._add(_framed(to_json(event)))

    def _failing(self, error: events_pb2.ServerEvent) -> events_pb2.ServerEvent:
        """Return an error as the next event; what ends with one is not done."""
        self._farewell = b""
        return _numbered(error, self._number + 1)

    def _add(self, frame: bytes) -> None:
        self._begun = True
        self._frames.append(frame)
        self._held += len(frame)

    def _refuse(self, refusal: Refusal) -> None:
        if self._begun:
            self._tell(self._failing(refusal.event()))
        else:
            self._refusal = refusal
        self.finish()

    def _leave(self) -> None:
        self._forget()
        super()._leave()

    def _forget(self) -> None:
        """Drop what nobody will read, and let go who waits for room."""
        self._over = True
        self._frames.clear()
        self._held = 0
        self._room.set()


class Playback:
    """Plays batches of events to a sink, no faster than it takes them: a `Source`."""

    def __init__(self, batches: AsyncGenerator[Sequence[Event], None], sink: Streamed) -> None:
        self._task: asyncio.Task[None] | None = asyncio.create_task(_play(batches, sink))

    async def finished(self) -> None:
        """Return when all is played: soon after the sink has heard the last event."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def close(self, ending: Ending) -> None:
        """Stop playing. What a cancelled task raises refers to all that it held, but not to itself."""
        del ending
        task, self._task = self._task, None
        if task is not None:
            task.cancel()


async def _play(batches: AsyncGenerator[Sequence[Event], None], sink: Streamed) -> None:
    try:
        await _play_to_end(batches, sink)
    except SessionError as error:
        sink.end(error)
    except Refusal as refusal:
        sink.refuse(refusal)
    except Exception:
        _logger.exception("playback_failed")
        sink.refuse(Failed())
    sink.finish()


async def _play_to_end(batches: AsyncGenerator[Sequence[Event], None], sink: Streamed) -> None:
    """Stop with the last event: what comes after it would have to be cancelled."""
    async with aclosing(batches):
        async for batch in batches:
            sink.deliver(batch)
            if sink.over:
                return
            await sink.drained()


def _numbered(error: events_pb2.ServerEvent, number: int) -> events_pb2.ServerEvent:
    """Return an error as the stream's next event: typed clients want it to have a number."""
    if error.HasField("sequence_number"):
        return error
    numbered = events_pb2.ServerEvent()
    numbered.CopyFrom(error)
    numbered.sequence_number = number
    return numbered


def _framed(body: bytes) -> bytes:
    kind = body[_TYPE_AT : body.index(b'"', _TYPE_AT)]
    return b"event: %b\ndata: %b\n\n" % (kind, body)
