"""A TLS connection that tells how much of what was written is unsent.

Event loops put TLS in front of a socket of its own, and tell only what waits before the encryption.
One large write goes through at once, counts as sent, and waits unseen: who does not read it would
never be found out, and whoever reads slowly would be taken for idle. So what TLS has no room for waits
here, where it is counted; what cannot be seen is then some hundred kilobytes at most.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, TypeAlias, cast

Data: TypeAlias = bytes | bytearray | memoryview

_SLICE: Final = 16 * 1024
"""Bytes: as many as a TLS record has. Between two of them TLS can say that it has no more room."""


class TlsConnection(asyncio.Transport, asyncio.Protocol):
    """To TLS the protocol it serves; to the protocol that is really served, its transport."""

    _tls: asyncio.Transport

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._protocol = protocol
        self._waiting: deque[memoryview] = deque()
        self._size = 0  # bytes in `_waiting`
        self._full = False  # TLS has no room
        self._told = False  # the protocol knows
        self._closing = False  # once nothing waits

    # What TLS calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Stand between the two from now on."""
        self._tls = cast("asyncio.Transport", transport)
        self._protocol.connection_made(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything."""
        self._drop()
        self._protocol.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Hand on what was said before the end."""
        if not self._closing:
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        """Tell that nothing more will come; a TLS connection closes then, whatever the answer is."""
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        """Keep what is written."""
        self._full = True
        if not self._told:
            self._told = True
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Write what was kept; if all of it had room, so has more."""
        self._full = False
        self._pour()
        if not self._full and self._told:
            self._told = False
            self._protocol.resume_writing()

    # What the protocol calls.

    def write(self, data: Data) -> None:
        """Send, now or when there is room."""
        if self.is_closing():
            return
        if len(data) <= _SLICE and not self._full:
            self._tls.write(data)
        else:
            self._keep(memoryview(bytes(data)))
            self._pour()

    def writelines(self, list_of_data: Iterable[Data]) -> None:
        """Send all of it."""
        self.write(b"".join(list_of_data))

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are unsent."""
        return self._size + self._tls.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return from how many on the protocol is to pause, and when it may go on."""
        return self._tls.get_write_buffer_limits()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say so."""
        self._tls.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        """TLS knows no half of a connection."""
        return False

    def pause_reading(self) -> None:
        """Hand nothing on for a while."""
        self._tls.pause_reading()

    def resume_reading(self) -> None:
        """Hand on what comes."""
        self._tls.resume_reading()

    def is_reading(self) -> bool:
        """Tell which it is."""
        return self._tls.is_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what TLS, or the socket, knows."""
        return self._tls.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Serve another protocol from now on."""
        self._protocol = cast("asyncio.Protocol", protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the one that is served."""
        return self._protocol

    def is_closing(self) -> bool:
        """Whether nothing more is taken."""
        return self._closing or self._tls.is_closing()

    def close(self) -> None:
        """Close once everything is sent."""
        self._closing = True
        if not self._waiting:
            self._tls.close()

    def abort(self) -> None:
        """Close now."""
        self._closing = True
        self._drop()
        self._tls.abort()

    def _keep(self, data: memoryview) -> None:
        starts = range(0, len(data), _SLICE)
        self._waiting.extend(data[start : start + _SLICE] for start in starts)
        self._size += len(data)

    def _pour(self) -> None:
        while self._waiting and not self._full:
            piece = self._waiting.popleft()
            self._size -= len(piece)
            self._tls.write(piece)
        if self._closing and not self._waiting:
            self._tls.close()

    def _drop(self) -> None:
        self._waiting.clear()
        self._size = 0
