"""The way between an adapter and its server: it can be cut at every byte, and taken away altogether."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.stand_ins.cut import Cut, How, Way

WAIT = 10.0  # seconds, for what happens soon
_KNOCK = 5  # turns of the loop, in which a connection is let in: a server that closes between them loses it


class Wire(Cut):
    """A wire that lets everything through until it is told otherwise."""

    def __init__(self, target: str) -> None:
        super().__init__(target, None, "answer", "close")
        self._server: asyncio.Server
        self._connected = 0

    async def connected(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Count those too that are on their way to the server."""
        self._connected += 1
        try:
            await super().connected(client, back)
        finally:
            self._connected -= 1

    async def arm(self, after_bytes: int, way: Way, how: How = "close") -> None:
        """Break off what is connected; what connects from now on is cut after so many bytes."""
        self._after_bytes, self._way, self._how = after_bytes, way, how
        await self.rest()

    async def rest(self) -> None:
        """Break off what is connected, and what is about to be."""
        async with asyncio.timeout(WAIT):
            while self._connected:
                self.pull()
                await asyncio.sleep(0.001)

    async def empty(self) -> None:
        """Return once nothing is connected: the others have left."""
        async with asyncio.timeout(WAIT):
            while self._connected:
                await asyncio.sleep(0.001)

    async def leave(self) -> None:
        """Take the wire away: whoever connects is refused, but for those that have knocked."""
        for _ in range(_KNOCK):
            await asyncio.sleep(0)
        self._server.close()
        await self.rest()
        await self._server.wait_closed()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator["Wire"]:
        """Listen on a port of loopback."""
        self._server = await asyncio.start_server(self.connected, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            await self.leave()
