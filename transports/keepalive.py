"""One timer for all connections of a server.

A task or a timer per connection is what makes ten thousand idle ones expensive. Here each has a
place on a wheel that turns once an interval; the visits are spread over its spokes, so that the
event loop never stops for all connections at once. It stands still while there are none.
"""

import asyncio
from typing import Protocol

_SPOKES = 8


class Watched(Protocol):
    """A connection with deadlines."""

    def tick(self, now: float) -> None:
        """Act on the deadlines that have passed by `now`, in the event loop's time."""


class Wheel:
    """Visits everything that is on it once an interval. What is added must be taken off again."""

    def __init__(self, interval: float) -> None:
        self._pause = interval / _SPOKES
        self._spokes: tuple[set[Watched], ...] = tuple(set() for _ in range(_SPOKES))
        self._position = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return sum(map(len, self._spokes))

    def add(self, watched: Watched) -> None:
        """Visit a connection from now on; its first visit comes within one interval."""
        min(self._spokes, key=len).add(watched)
        if self._timer is None:
            self._schedule()

    def discard(self, watched: Watched) -> None:
        """Visit a connection no more. Taking it off twice does nothing."""
        for spoke in self._spokes:
            spoke.discard(watched)

    def _schedule(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._pause, self._turn)

    def _turn(self) -> None:
        self._timer = None
        if not len(self):
            return
        self._schedule()  # before the visits: a defect in one must not stop the wheel
        now = asyncio.get_running_loop().time()
        self._position = (self._position + 1) % _SPOKES
        for watched in tuple(self._spokes[self._position]):
            watched.tick(now)
