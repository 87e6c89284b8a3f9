"""Responses that are being made and can be retrieved, and those who follow them."""

import asyncio
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.errors import Ending, SessionError
from turnwire.delta import Event

if TYPE_CHECKING:
    from service.turns.run import Run

_MOST_EVENTS = 65_536
"""Events that may wait for a follower to take them."""


class Live:
    """The responses that are being made, by tenant and id."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, str], Run] = {}

    def get(self, tenant: str, response_id: str) -> "Run | None":
        """Return the run that makes a response, if one does."""
        return self._runs.get((tenant, response_id))

    @property
    def runs(self) -> Collection["Run"]:
        """All of them."""
        return self._runs.values()

    @contextmanager
    def listed(self, tenant: str, run: "Run") -> Iterator[None]:
        """List a run for as long as its response is being made and kept."""
        key = (tenant, run.response.id)
        self._runs[key] = run
        try:
            yield
        finally:
            del self._runs[key]
            run.over()


class Follower:
    """Someone who is told of a response's events without having asked for the response."""

    def __init__(self, leave: Callable[["Follower"], None]) -> None:
        self._leave = leave
        self._events: list[Event] = []
        self._news = asyncio.Event()
        self._ended = False
        self._lost = False

    def deliver(self, events: Sequence[Event]) -> None:
        """Keep events until they are taken, unless there are too many."""
        self._events += () if self._lost else events
        if len(self._events) > _MOST_EVENTS:
            self._events, self._lost = [], True
        self._news.set()

    def end(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._news.set()

    async def take(self) -> Sequence[Event]:
        """Wait for events and return them; none means that it was the end.

        Raises `SessionError` for one that is too far behind: it can begin anew where it was.
        """
        while not (self._events or self._ended or self._lost):
            self._news.clear()
            await self._news.wait()
        if self._lost:
            message = "The events of the response were not read in time. Ask for the rest."
            raise SessionError(Ending.SLOW_READER, message)
        events, self._events = self._events, []
        return events

    def leave(self) -> None:
        """Follow no more."""
        self._leave(self)
