"""A TCP proxy that can do to connections what networks do: delay them, lose them, lead elsewhere."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_PIECE = 64 * 1024


class Proxy:
    """Forwards connections to a port of this machine."""

    def __init__(self, target: int) -> None:
        self.port = 0
        self.delay = 0.0
        """Seconds that every piece is held back, either way."""
        self._target = target
        self._flows = asyncio.Event()
        self._flows.set()
        self._open: set[asyncio.Task[None]] = set()

    def lead_to(self, target: int) -> None:
        """Forward to another port from now on; connections to the one before break off."""
        self._target = target
        self.cut()

    def cut(self) -> None:
        """Break off all connections."""
        for forwarding in tuple(self._open):
            forwarding.cancel()

    def lose(self) -> None:
        """Let nothing through, and tell nobody."""
        self._flows.clear()

    def find(self) -> None:
        """Let everything through again, what was held back first."""
        self._flows.set()

    @asynccontextmanager
    async def laid(self) -> AsyncIterator["Proxy"]:
        """Listen for as long as the context lasts."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await asyncio.gather(*self._open, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        forwarding = asyncio.ensure_future(self._forward(reader, writer))
        self._open.add(forwarding)
        forwarding.add_done_callback(self._open.discard)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            try:
                there, back = await asyncio.open_connection("127.0.0.1", self._target)
            except OSError:
                writer.transport.abort()
                return
            try:
                await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
            finally:
                writer.transport.abort()
                back.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            await asyncio.sleep(self.delay)
            await self._flows.wait()
            writer.write(piece)
            await writer.drain()
        writer.close()
