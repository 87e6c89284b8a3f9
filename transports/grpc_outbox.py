"""Server events as the messages that carry them: a field `events` with the number that all give it."""

import functools
from collections import deque

from turnwire.delta import Event, to_wire
from turnwire.v1 import session_service_pb2 as rpc

MESSAGE_BYTES = 256 * 1024
"""A message grows to this; a larger one is a single event. It has to be read within the deadline of a
write; clients accept 4 MiB by default."""
EVENTS_TAG = rpc.ConnectResponse.EVENTS_FIELD_NUMBER << 3 | 2  # 2: length-delimited


class Outbox:
    """Encoded messages in the order of their events; the last one still grows."""

    def __init__(self) -> None:
        self.size = 0
        self._messages: deque[bytearray] = deque()

    def add_event(self, event: Event) -> None:
        """Add an event."""
        wire = to_wire(event)
        self.add(_prefix(len(wire)) + wire)

    def add(self, fields: bytes) -> None:
        """Add fields of a message: concatenated, messages are one message (a rule of protobuf)."""
        if not self._messages or len(self._messages[-1]) + len(fields) > MESSAGE_BYTES:
            self._messages.append(bytearray())
        self._messages[-1] += fields
        self.size += len(fields)

    def take(self) -> bytes:
        """Remove the first message."""
        message = bytes(self._messages.popleft())
        self.size -= len(message)
        return message


def writes_in(message: bytes) -> int:
    """Return how many deadlines a message has: one for each part of the usual size."""
    return 1 + len(message) // MESSAGE_BYTES


@functools.lru_cache(maxsize=4096)
def _prefix(length: int) -> bytes:
    """Return what precedes an event of this length: its tag, and a varint."""
    prefix = bytearray((EVENTS_TAG,))
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)
