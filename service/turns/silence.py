"""A model server that says nothing: its client is told that the turn still runs, until it is given up."""

import asyncio
from typing import Protocol, Self

from service.limits import TurnLimits


class Waiting(Protocol):
    """The turn that waits for the model."""

    @property
    def behind(self) -> bool:
        """Whether the client has so much left to read that it keeps its model waiting."""

    def keepalive(self) -> None:
        """Say that the turn still runs."""


class Silence:
    """Notices a model server that says nothing: tells the client, and in the end gives up."""

    def __init__(self, waiting: Waiting, limits: TurnLimits, deadline: asyncio.Timeout) -> None:
        self._waiting = waiting
        self._limits, self._deadline = limits, deadline
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self.unbroken = True
        """Whether the model server has said nothing at all yet."""

    def __enter__(self) -> Self:
        self._look_later(0)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def broken(self) -> None:
        """Something was said."""
        self.unbroken = False
        self._since = self._loop.time()

    def _look_later(self, silent: float) -> None:
        keepalive = self._limits.keepalive
        pause = min(keepalive - silent % keepalive, self._limits.stall - silent)
        self._timer = self._loop.call_later(pause, self._look)

    def _look(self) -> None:
        if self._waiting.behind:  # then it is the client that keeps its model waiting
            self._since = self._loop.time()
        silent = self._loop.time() - self._since
        if silent >= self._limits.stall:
            self._deadline.reschedule(self._loop.time())
            return
        if silent >= self._limits.keepalive:
            self._waiting.keepalive()
        self._look_later(silent)
