"""Server-sent events, out of what one read of a model server yields.

Only data is told apart: names, ids and comments of events say nothing that their data does not.
"""

from service.errors import ModelError

_LARGEST = 16 * 1024 * 1024
"""Bytes of one event: the longest that is expected repeats the ids of a prompt."""


class Events:
    """The events of one stream. Lines may end with CR LF or LF; both may stand in one stream."""

    def __init__(self, largest: int = _LARGEST) -> None:
        self._largest = largest
        self._line = bytearray()  # what there is of the line that is not whole yet
        self._data: list[bytes] = []  # lines of the event that is not whole yet
        self._bytes = 0  # of those lines, each with its end

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the data of the events that have become whole. Raises `ModelError` if one is too large."""
        whole, newline, rest = piece.rpartition(b"\n")
        events: list[bytes] = []
        if newline:
            lines = (bytes(self._line) + whole).split(b"\n")
            self._line.clear()
            events = [event for line in lines if (event := self._read(line)) is not None]
        self._line += rest
        if self._bytes + len(self._line) > self._largest:
            raise ModelError("server_error", "The model server sent an event that is too large.")
        return events

    def _read(self, line: bytes) -> bytes | None:
        """Return the data of the event that a line ends, if it ends one."""
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" ").removesuffix(b"\r"))
            self._bytes += len(line) + 1
        elif self._data and line in {b"", b"\r"}:
            data, self._data, self._bytes = b"\n".join(self._data), [], 0
            return data
        return None
