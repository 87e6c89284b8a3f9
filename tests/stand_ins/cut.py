"""A wire that can be cut: a TCP proxy that passes so many bytes, then breaks off or falls silent."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

Way = Literal["answer", "request"]
How = Literal["close", "silence"]


class Cut:
    """The wire. Each connection through it is cut anew, until `heal`."""

    def __init__(self, target: str, after_bytes: int | None, way: Way, how: How) -> None:
        self.connections = 0
        self.cuts = 0
        self.passed: dict[Way, int] = {"answer": 0, "request": 0}
        """Bytes that went through, of all connections."""
        self.port = 0
        self._target, self._after_bytes, self._way, self._how = target, after_bytes, way, how
        self._happened = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Where to connect instead of to the target."""
        return urlsplit(self._target)._replace(netloc=f"127.0.0.1:{self.port}").geturl()

    @property
    def open(self) -> int:
        """How many connections there are now."""
        return len(self._writers) // 2

    def heal(self) -> None:
        """Let everything through from now on."""
        self._after_bytes = None

    def pull(self) -> None:
        """Break all connections off that there are."""
        self._was_cut()
        for writer in self._writers:
            writer.transport.abort()

    async def happened(self) -> None:
        """Return once a connection was cut."""
        await self._happened.wait()

    async def connected(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        """Forward a connection in both ways until it ends, or is cut, in one of them."""
        self.connections += 1
        address = urlsplit(self._target)
        try:
            server, on = await asyncio.open_connection(address.hostname, address.port)
        except OSError:
            back.transport.abort()
            return
        self._writers |= {back, on}
        ways = [
            asyncio.create_task(self._forward("request", client, on)),
            asyncio.create_task(self._forward("answer", server, back)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            back.close()
            on.close()
            self._writers -= {back, on}

    async def _forward(
        self, way: Way, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        left = self._after_bytes if way == self._way else None
        with suppress(ConnectionError):
            while left is None or left > 0:
                piece = await reader.read(65536 if left is None else left)
                if not piece:
                    return
                self.passed[way] += len(piece)
                writer.write(piece)
                await writer.drain()
                left = None if left is None else left - len(piece)
            self._was_cut()
            if self._how == "silence":
                await asyncio.Event().wait()

    def _was_cut(self) -> None:
        self.cuts += 1
        self._happened.set()


@asynccontextmanager
async def cut(
    target: str, after_bytes: int | None = None, way: Way = "answer", how: How = "close"
) -> AsyncIterator[Cut]:
    """Stand between a client and a target, a URL, in which host and port are what matters.

    After so many bytes in one way each connection is closed, or nothing more passes that way and nobody
    is told. Without a number everything passes, until `pull`.
    """
    wire = Cut(target, after_bytes, way, how)
    server = await asyncio.start_server(wire.connected, "127.0.0.1", 0)
    wire.port = server.sockets[0].getsockname()[1]
    try:
        yield wire
    finally:
        wire.pull()
        server.close()
        await server.wait_closed()
