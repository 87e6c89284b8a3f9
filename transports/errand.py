"""Work of a client's that is no turn, as one of the engine's connections: counted, and ended by a drain."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from service.engine import Engine
from service.errors import Ending, Overloaded, SessionError
from service.identity import Identity
from turnwire.delta import Event

T = TypeVar("T")


class Errand:
    """The sink of such a connection: nothing is sent to it but its end, which ends the work."""

    congested = False

    def __init__(self) -> None:
        self._ended: SessionError | None = None
        self._allowance = asyncio.timeout(None)

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do the work. Raises `Overloaded` where the connection ends before it does."""
        try:
            async with self._allowance:
                return await work()
        except TimeoutError:
            if self._ended is None:
                raise
            raise Overloaded("server_is_overloaded", self._ended.message) from None

    @property
    def ending(self) -> Ending:
        """Why the connection has ended."""
        return self._ended.ending if self._ended else Ending.GONE

    def deliver(self, events: Sequence[Event]) -> None:
        """Take nothing: there is no turn that could have events."""

    async def drained(self) -> None:
        """Return: nothing is ever unsent."""

    def end(self, error: SessionError) -> None:
        """Stop the work."""
        if self._ended is None:
            self._ended = error
            self._allowance.reschedule(asyncio.get_running_loop().time())


async def run_errand(
    engine: Engine, caller: Identity, transport: str, work: Callable[[], Awaitable[T]]
) -> T:
    """Do work as long as the engine lets it. Raises `Overloaded` where it is full or goes away."""
    errand = Errand()
    connection = engine.connect(caller, transport, errand)
    try:
        return await errand.run(work)
    finally:
        connection.close(errand.ending)
