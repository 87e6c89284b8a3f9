"""A tap on the wire: forwards connections to a server, and keeps what goes over them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

_PIECE = 64 * 1024  # bytes


class Tap:
    """What went over the wire so far."""

    def __init__(self) -> None:
        self.port = 0
        self.sent = bytearray()
        self.answered = bytearray()


@contextlib.asynccontextmanager
async def tapped(port: int) -> AsyncIterator[Tap]:
    """Forward to a port of this machine."""
    tap = Tap()
    forwarding: set[asyncio.Task[None]] = set()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        there = _pump(reader, server_writer, tap.sent)
        back = _pump(server_reader, writer, tap.answered)
        await asyncio.gather(there, back)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        forwarding.add(asyncio.ensure_future(forward(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        tap.port = server.sockets[0].getsockname()[1]
        yield tap
        for task in forwarding:
            task.cancel()
        await asyncio.gather(*forwarding, return_exceptions=True)


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: bytearray
) -> None:
    """Forward one way, and hang up at the end: that ends the other way too."""
    try:
        while piece := await reader.read(_PIECE):
            heard += piece
            writer.write(piece)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.transport.abort()
