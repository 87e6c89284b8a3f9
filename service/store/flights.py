"""Work that is done once for all who ask for it at the same time."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, Generic, TypeVar

from prometheus_client import Counter

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Flights(Generic[K, T]):
    """Work in progress, by key. Who stops waiting does not stop it; a failure is told to all who wait."""

    def __init__(self, shared: Counter) -> None:
        """`shared` counts those who joined another's work."""
        self._shared = shared
        self._flights: dict[K, asyncio.Task[T]] = {}

    async def join(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what comes of the work, which is begun unless it is in progress."""
        if flight := self._flights.get(key):
            self._shared.inc()
        else:
            flight = asyncio.get_running_loop().create_task(work())
            self._flights[key] = flight
            flight.add_done_callback(partial(self._landed, key))
        return await asyncio.shield(flight)

    async def settled(self, key: K) -> None:
        """Wait for the work that is in progress, if any is."""
        if flight := self._flights.get(key):
            await asyncio.wait([flight])

    def _landed(self, key: K, flight: asyncio.Task[T]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # looked at: perhaps nobody waits for it any more
