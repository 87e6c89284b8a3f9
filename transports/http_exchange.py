"""One HTTP request that is answered by events: the engine's `Sink`, and an ASGI answer, in one.

The source of the events is closed when all has been said, and at once when the client leaves.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from service.errors import Ending, Overloaded, Refusal, SessionError
from transports.http_answer import Said, say
from transports.large_answers import LargeAnswers
from turnwire.delta import Delta, Event, is_last
from turnwire.v1 import events_pb2

T = TypeVar("T")


class Client(Protocol):
    """The client's end of a connection, which the server below ASGI holds."""

    @property
    def ending(self) -> Ending:
        """Why the connection is gone, once it is."""

    def cut(self, ending: Ending) -> None:
        """Drop the client, unsent bytes and all."""


class Source(Protocol):
    """What the events come from: one of the engine's connections, or a `Playback`."""

    async def finished(self) -> None:
        """Return when closing would stop nothing that should still happen."""

    def close(self, ending: Ending) -> None:
        """Stop. Closing twice is closing once."""


class Exchange(ABC):
    """A request under way, for as long as its client stays."""

    source: Source | None = None
    """To be set before the request is answered; closed and let go of when it has been."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._ending: Ending | None = None  # the engine's reason, if it ends
        self._news = asyncio.Event()
        self._over = False  # nothing more is taken from the source
        self._refusal: Refusal | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request."""
        watch = asyncio.create_task(departure(receive))
        watch.add_done_callback(self._left)
        try:
            await self._news.wait()
            # Said here and not raised: what came from the engine it has counted.
            answer = self._answer if self._refusal is None else say(self._refusal)
            await answer(scope, receive, send)
            watch.cancel()  # once an answer is complete it would see a departure
            await self._finished()
        finally:
            watch.cancel()
            self._close(self._ending or self._client.ending)

    def end(self, error: SessionError) -> None:
        """The engine ends the connection. A response that has not ended will not go on."""
        self._ending = error.ending
        if not self._over:
            self._refuse(Overloaded("server_is_overloaded", error.message))

    @abstractmethod
    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say what there is to say, and what is still to come."""

    @abstractmethod
    def _refuse(self, refusal: Refusal) -> None:
        """Take a refusal for the end."""

    def _left(self, watch: asyncio.Task[None]) -> None:
        if not watch.cancelled():
            self._close(self._client.ending)
            self._leave()

    async def _finished(self) -> None:
        if self.source is not None:
            await self.source.finished()

    def _close(self, ending: Ending) -> None:
        """Stop the source. It knows its sink: to let go of it makes the garbage collector's work less."""
        source, self.source = self.source, None
        if source is not None:
            source.close(ending)

    def _leave(self) -> None:
        self._over = True
        self._news.set()


class Collected(Exchange):
    """Answers with the response as it ended."""

    congested = False
    """Nothing is kept but the end."""

    def __init__(self, client: Client, tenant: str, large_answers: LargeAnswers) -> None:
        super().__init__(client)
        self._tenant = tenant
        self._large_answers = large_answers
        self._last: events_pb2.ServerEvent | None = None

    def deliver(self, events: Sequence[Event]) -> None:
        """Look out for the last event."""
        for event in events:
            if isinstance(event, Delta) or self._over:
                continue
            if event.HasField("error"):
                self._refuse(Refusal.of(event.error))
            elif is_last(event):
                self._last = event
                self._leave()

    async def drained(self) -> None:
        """Return: there is nothing to wait for."""

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._last is not None:
            ended = getattr(self._last, self._last.WhichOneof("kind") or "")
            said = Said(ended.response, self._tenant, self._large_answers)
            await said(scope, receive, send)

    def _refuse(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self._leave()


async def departure(receive: Receive) -> None:
    """Wait until the client is gone; its request has been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def while_there(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do work, unless the client leaves: then stop it, and raise `ClientDisconnect`."""
    watch = asyncio.create_task(departure(receive))
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task, watch], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        watch.cancel()
        task.cancel()
