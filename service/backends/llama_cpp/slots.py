"""Which conversation is in which slot of a llama.cpp server.

A slot is a sequence of tokens whose keys and values the server holds. A conversation goes back to
the slot it was in; otherwise it takes the one that was used longest ago.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple

from service.errors import ModelError


class Owner(NamedTuple):
    """Whose tokens a slot holds."""

    tenant: str
    conversation: str


@dataclass(slots=True)
class Lease:
    """A slot, for one generation."""

    slot: int
    reuse: bool
    """Whether what the slot holds may be reused: not where another tenant left it."""
    filled: bool = False
    """Whether the slot is known to hold the leaseholder's tokens, and nobody else's."""


class Slots:
    """The slots of one server, each leased to one generation at a time."""

    def __init__(self, count: int, deadline: float) -> None:
        self._idle: dict[int, Owner | None] = dict.fromkeys(range(count))  # longest unused first
        self._free = asyncio.Semaphore(count)  # as many as are idle; it keeps the line
        self._deadline = deadline

    @asynccontextmanager
    async def lease(self, owner: Owner) -> AsyncGenerator[Lease]:
        """Lease the slot that fits best; wait in line while all are busy. Raises `ModelError`."""
        await self._acquire()
        slot = self._choose(owner)
        before = self._idle.pop(slot)
        lease = Lease(slot, reuse=before is not None and before.tenant == owner.tenant)
        try:
            yield lease
        finally:
            self._idle[slot] = owner if lease.filled or lease.reuse else None  # nobody knows whose
            self._free.release()

    async def _acquire(self) -> None:
        try:
            async with asyncio.timeout(self._deadline):
                await self._free.acquire()
        except TimeoutError as error:
            raise ModelError("rate_limit_exceeded", "The model is busy; try again.") from error

    def _choose(self, owner: Owner) -> int:
        own = (slot for slot, last in reversed(self._idle.items()) if last == owner)
        return next(own, next(iter(self._idle)))
