"""A client's end of a connection: it reads when it pleases, and every event goes into the ledger."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from service.engine import Engine
from service.errors import Ending, SessionError
from service.identity import Identity
from tests.conformance.clients import Client, Ended, InProcess
from tests.faults.ledger import Ledger
from turnwire.delta import Event
from turnwire.v1 import events_pb2

WAIT = 10.0
TENANT = "alice"
_UNREAD = 8
"""Events that a client in this process may leave unread before it is behind."""
Connect = Callable[[], AbstractAsyncContextManager[Client]]


class Unhurried(InProcess):
    """The engine itself, with a queue for a wire that holds the engine back when it is full."""

    def __init__(self) -> None:
        super().__init__()
        self._read = asyncio.Event()

    def deliver(self, events: Sequence[Event]) -> None:
        super().deliver(events)
        self.congested = self._received.qsize() > _UNREAD

    async def drained(self) -> None:
        while self.congested:
            self._read.clear()
            await self._read.wait()

    async def receive(self) -> events_pb2.ServerEvent:
        try:
            return await super().receive()
        finally:
            if self._received.qsize() <= _UNREAD:
                self._catch_up()

    def end(self, error: SessionError) -> None:
        super().end(error)
        self._catch_up()

    async def vanish(self) -> None:
        await super().vanish()
        self._catch_up()

    def _catch_up(self) -> None:
        self.congested = False
        self._read.set()


def in_process(engine: Engine) -> Connect:
    """Connect to an engine in this process."""

    @asynccontextmanager
    async def connected() -> AsyncIterator[Client]:
        client = Unhurried()
        client.connection = engine.connect(Identity(TENANT), "in-process", client)
        try:
            yield client
        finally:
            await client.vanish()

    return connected


class Line:
    """A connection, and the task that reads from it unless it is told to pause."""

    def __init__(self, number: int, client: Client, ledger: Ledger) -> None:
        self.number = number
        self.client = client
        self.endings: frozenset[Ending] | None = None
        """How the server ended it, if it did."""
        self.left = False
        """Whether its client has left it."""
        self.reads = asyncio.Event()
        self.reads.set()
        self._ledger = ledger
        self._news = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def until(self, holds: Callable[[], bool]) -> None:
        """Read until something holds. Raises what was wrong with an event."""
        self.reads.set()
        async with asyncio.timeout(WAIT):
            while not holds():
                self.check()
                self._news.clear()
                await self._news.wait()
        self.check()

    def check(self) -> None:
        """Raise what was wrong with an event, if anything was."""
        if self._reading.done() and not self._reading.cancelled():
            self._reading.result()

    async def leave(self) -> None:
        """Read no more."""
        self.left = True
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while True:
                await self.reads.wait()
                self._ledger.hear(self.number, await self.client.receive())
                self._news.set()
        except Ended as ended:
            self.endings = ended.endings
        finally:
            self._news.set()


class Lines:
    """The connections of one client, one after the other."""

    def __init__(self, connect: Connect, ledger: Ledger) -> None:
        self._connect = connect
        self._ledger = ledger
        self._opened = 0
        self._stack = AsyncExitStack()
        self.now: Line

    async def open(self) -> None:
        """Connect."""
        client = await self._stack.enter_async_context(self._connect())
        self.now = Line(self._opened, client, self._ledger)
        self._opened += 1

    async def vanish(self) -> None:
        """Leave without a word, whatever is under way."""
        await self.now.leave()
        self._ledger.lose(self.now.number)
        await self.now.client.vanish()

    async def close(self) -> None:
        """Let go of everything."""
        await self.now.leave()
        await self._stack.aclose()
