"""What has come over a WebSocket and is not read yet.

It is read in bounded parts, a few a loop tick, and not at all while the client does not read what it
is sent: so a flood of tiny frames holds up nobody but its sender.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from transports.websocket_outbox import Outbox

_FRAMES_A_TICK: Final = 64
_PART: Final = 4096  # bytes that are parsed at once: of the smallest frames, several hundred
_NOTHING: Final = memoryview(b"")


class Inbox:
    """Hands what comes to `read`, a part at a time; `read` returns how many frames ended in it."""

    __slots__ = ("_outbox", "_read", "_transport", "_unread", "held_up")

    def __init__(
        self, transport: asyncio.Transport, outbox: Outbox, read: Callable[[memoryview], int]
    ) -> None:
        self._transport = transport
        self._outbox = outbox
        self._read = read
        self._unread = _NOTHING
        self.held_up = False
        """Whether what is unread waits, and the socket is not read."""

    def put(self, data: bytes) -> None:
        """Read what has come, behind what waits."""
        self._unread = memoryview(bytes(self._unread) + data if self._unread else data)
        if not self.held_up:
            self._go_on()

    def resume(self) -> None:
        """Read on: the client has read."""
        if self.held_up:
            self._go_on()

    def abandon(self) -> None:
        """Drop what is unread, and the reader: the connection is gone."""
        self._unread = _NOTHING
        self._read = len

    def _go_on(self) -> None:
        frames, size = 0, _PART
        while self._unread and frames < _FRAMES_A_TICK and not self._outbox.congested:
            part, self._unread = self._unread[:size], self._unread[size:]
            ended = self._read(part)
            frames += ended
            size = _PART if ended else 2 * size  # inside a long frame
        self._unread = self._unread or _NOTHING  # an empty view would keep all that was read
        if self._unread:
            self._hold_up()
        elif self.held_up:
            self._let_in()

    def _hold_up(self) -> None:
        """Read on in the next tick, or once the socket takes more."""
        if not self._outbox.paused:
            asyncio.get_running_loop().call_soon(self._go_on)
        if not self.held_up and not self._transport.is_closing():
            self.held_up = True
            self._transport.pause_reading()

    def _let_in(self) -> None:
        self.held_up = False
        if not self._transport.is_closing():
            self._transport.resume_reading()
