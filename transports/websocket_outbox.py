"""What is on its way out of a WebSocket: gathered for one loop tick, held back while it is full."""

import asyncio
import struct
from collections.abc import Sequence
from typing import Final

from service.limits import Limits
from transports.patience import Patience

_WRITE_BUFFER: Final = 64 * 1024  # what the event loop may buffer; the rest waits in the outbox
_PROGRESS: Final = 64 * 1024  # bytes that a client must have read of what waits, each deadline
_COMMON: Final = 1024  # frames shorter than this take their header from a table
_HEADER_16: Final = struct.Struct("!BBH").pack
_HEADER_64: Final = struct.Struct("!BBQ").pack


class Outbox:
    """What is on its way out: gathered for one loop tick, kept back while the socket is full."""

    __slots__ = (
        "_drained",
        "_frames",
        "_goal",
        "_held",
        "_limit",
        "_patience",
        "_queued",
        "_set_at",
        "_transport",
        "paused",
    )

    def __init__(self, transport: asyncio.Transport, limits: Limits) -> None:
        limit = limits.outbound_bytes
        transport.set_write_buffer_limits(high=min(_WRITE_BUFFER, limit))
        self._transport = transport
        self._limit = limit
        self._patience = Patience(limits)
        self._frames: list[bytes] = []
        self._held = 0  # bytes in `_frames`
        self._queued = 0  # bytes ever put in
        self._goal = 0  # how many of these must be sent in time
        self._set_at = 0.0
        self.paused = False
        """Whether the socket is full."""
        self._drained: asyncio.Event | None = None

    @property
    def unsent(self) -> int:
        """Bytes that the kernel has not taken yet."""
        return self._held + self._transport.get_write_buffer_size()

    @property
    def congested(self) -> bool:
        """Whether that is more than it should be."""
        return self.unsent > self._limit

    @property
    def overfull(self) -> bool:
        """Whether the client is to be given up: it is fed on, and does not read."""
        return self._patience.is_over(self._held)

    def put(self, payloads: Sequence[bytes]) -> None:
        """Send each payload as a text frame, at the end of this loop tick."""
        frames, size = self._frames, 0
        if not frames and not self.paused:
            asyncio.get_running_loop().call_soon(self._flush)
        for payload in payloads:
            length = len(payload)
            header = _HEADERS[length] if length < _COMMON else _header(length)
            frames += (header, payload)
            size += len(header) + length
        self._held += size
        self._queued += size

    def pause(self) -> None:
        """Keep back what is put in."""
        self.paused = True

    def resume(self) -> None:
        """Send what was kept back."""
        self.paused = False
        self._flush()

    def flush_all(self) -> None:
        """Send everything, whether or not the socket is full: nothing will be put in after it."""
        if self._frames and not self._transport.is_closing():
            self._transport.write(b"".join(self._frames))
        self._frames = []
        self._held = 0

    def abandon(self) -> None:
        """Drop everything: nobody is there to read it."""
        self._frames = []
        self._held = 0
        if self._drained is not None:
            self._drained.set()

    def overdue(self, now: float, deadline: float) -> bool:
        """Tell whether bytes have waited for longer than the deadline.

        A client that reads on starts it anew, unless it only trickles.
        """
        unsent = self.unsent
        sent = self._queued - unsent
        if sent >= self._goal:
            self._goal, self._set_at = min(self._queued, sent + _PROGRESS), now
        return unsent > 0 and now - self._set_at >= deadline

    async def drained(self) -> None:
        """Return when no longer congested, or abandoned."""
        while self.congested and not self._transport.is_closing():
            if self._drained is None or self._drained.is_set():
                self._drained = asyncio.Event()
            await self._drained.wait()

    def _flush(self) -> None:
        if not self.paused:
            self.flush_all()
        if self._drained is not None and not self.congested:
            self._drained.set()


def _header(length: int) -> bytes:
    """Return the header of an unmasked, final text frame."""
    if length < 126:
        return bytes((0x81, length))
    if length < 65536:
        return _HEADER_16(0x81, 126, length)
    return _HEADER_64(0x81, 127, length)


_HEADERS: Final = tuple(map(_header, range(_COMMON)))
