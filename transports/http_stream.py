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

from service.connection import Sink
from service.errors import Ending, Failed, Refusal, SessionError
from service.limits import PATIENCE, Limits
from transports.http_exchange import LAST, Client, Exchange
from turnwire.delta import Delta, Event, to_json
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
        self._frames: deque[bytes] = deque()
        self._held = 0  # bytes in `_frames`, and in the one that is being written
        self._begun = False
        self._room = asyncio.Event()

    def deliver(self, events: Sequence[Event]) -> None:
        """Send events. A client far behind is cut: it is being waited for, and yet there is more."""
        if self._over:
            return
        if self._held > PATIENCE * self._limit:
            self._client.cut(Ending.SLOW_READER)
            self._forget()
            return
        try:
            self._put(events)
        except Exception:  # the engine is promised that this never raises
            _logger.exception("delivery_failed")
            self._refuse(Failed())

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
        await send({"type": "http.response.body", "body": _DONE, "more_body": False})

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
                self._add(_framed(to_json(event)))
            elif self._take(event):
                return
        self._news.set()

    def _take(self, event: events_pb2.ServerEvent) -> bool:
        """Send an event that is no delta; tell whether it was the last."""
        kind = event.WhichOneof("kind")
        if kind == "error" and not self._begun:
            self._refuse(Refusal.of(event.error))
            return True
        self._add(_KEEPALIVE if kind == "keepalive" else _framed(to_json(event)))
        if kind in LAST:
            self.finish()
        return self._over

    def _add(self, frame: bytes) -> None:
        self._begun = True
        self._frames.append(frame)
        self._held += len(frame)

    def _refuse(self, refusal: Refusal) -> None:
        if self._begun:
            self._add(_framed(to_json(refusal.event())))
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
        self._task = asyncio.create_task(self._run(batches, sink))

    async def finished(self) -> None:
        """Return: nothing depends on what is only told again."""

    def close(self, ending: Ending) -> None:
        """Stop playing."""
        del ending
        self._task.cancel()

    async def _run(self, batches: AsyncGenerator[Sequence[Event], None], sink: Streamed) -> None:
        try:
            await _play(batches, sink)
        except SessionError as error:
            sink.end(error)
        except Exception:
            _logger.exception("playback_failed")
            sink.deliver([Failed().event()])
        sink.finish()


async def _play(batches: AsyncGenerator[Sequence[Event], None], sink: Sink) -> None:
    async with aclosing(batches):
        async for batch in batches:
            sink.deliver(batch)
            await sink.drained()


def _framed(body: bytes) -> bytes:
    kind = body[_TYPE_AT : body.index(b'"', _TYPE_AT)]
    return b"event: %b\ndata: %b\n\n" % (kind, body)
