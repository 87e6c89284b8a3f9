"""Turns over HTTP: a POST each, answered by server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from service.backends.http import Answer, HttpClient
from service.backends.responses.errors import refusal
from service.backends.responses.lines import Owner
from service.backends.sse import Events
from service.errors import ModelError

_PATH = "/v1/responses"
_REST = 0.5  # seconds for an answer to end after its last event, so that its connection can be kept


class HttpLine:
    """One POST."""

    held = None  # but what is in a store, which can be asked from anywhere

    def __init__(self, http: HttpClient, deadline: float, stack: AsyncExitStack) -> None:
        self._http, self._deadline, self._stack = http, deadline, stack
        self._events = Events()
        self._finished = False
        self._answer: Answer

    async def send(self, request: Sequence[bytes]) -> None:
        """Ask for a response. Raises `ModelError`."""
        exchange = self._http.exchange("POST", _PATH, request, self._deadline)
        self._answer = await self._stack.enter_async_context(exchange)
        if self._answer.status != 200:
            raise refusal(self._answer.status, await self._answer.all())

    async def read(self) -> Sequence[bytes]:
        """Return the events that have come since, nothing at the end. Raises `ModelError`."""
        while piece := await self._answer.read():
            if events := self._events.feed(piece):
                return events
        return ()

    def finish(self, held: str | None) -> None:
        """The response is complete."""
        del held
        self._finished = True

    async def end(self) -> None:
        """Read what is left of a complete answer, which is nothing but its end."""
        if self._finished:
            with suppress(ModelError, TimeoutError):
                async with asyncio.timeout(_REST):
                    await self._answer.all()


class HttpLines:
    """As many as are wanted."""

    def __init__(self, http: HttpClient, deadline: float) -> None:
        """`deadline` is how long the upstream may take to begin, in seconds."""
        self._http, self._deadline = http, deadline

    @asynccontextmanager
    async def lease(self, owner: Owner, held: str | None) -> AsyncGenerator[HttpLine]:
        """Make one POST possible."""
        del owner, held
        async with AsyncExitStack() as stack:
            line = HttpLine(self._http, self._deadline, stack)
            yield line
            await line.end()

    async def close(self) -> None:
        """Let go of the kept connections."""
        self._http.close()
