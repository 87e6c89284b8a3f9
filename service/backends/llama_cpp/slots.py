"""Which conversation is in which slot of a llama.cpp server.

A slot is a sequence of tokens whose keys and values the server holds. A conversation goes back to
the slot it was in. A client that keeps its conversation itself, and sends all of it every time, is known
by what it sends: it begins with the prompt that a slot was given last. All others take the slot that was
used longest ago, and find there what was saved of them, if anything was.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from service.errors import Unavailable


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
    savable: bool = False
    """Whether what it holds may be saved: not what its client does not want stored."""


class Saved(Protocol):
    """Where conversations are kept that lost their slot."""

    async def save(self, slot: int, owner: Owner) -> None:
        """Save a conversation that is about to lose its slot."""

    async def restore(self, slot: int, owner: Owner) -> bool:
        """Bring a conversation back into a slot; tell whether it is there."""


class Nowhere:
    """Conversations that lose their slot are computed again."""

    async def save(self, slot: int, owner: Owner) -> None:
        """Save nothing."""

    async def restore(self, slot: int, owner: Owner) -> bool:
        """Nothing was saved."""
        del slot, owner
        return False


class Slots:
    """The slots of one server, each leased to one generation at a time."""

    def __init__(self, count: int, deadline: float, saved: Saved | None = None) -> None:
        self._idle: dict[int, Owner | None] = dict.fromkeys(range(count))  # longest unused first
        self._free = asyncio.Semaphore(count)  # as many as are idle; it keeps the line
        self._deadline = deadline
        self._saved = saved or Nowhere()
        self._told = [b""] * count  # the prompts that they were given last
        self._savable = [False] * count

    @asynccontextmanager
    async def lease(self, owner: Owner, told: bytes = b"") -> AsyncGenerator[Lease]:
        """Lease the slot that fits best; wait in line while all are busy. Raises `Unavailable`.

        `told` is the prompt, in decimal ids.
        """
        await self._acquire()
        slot = self._choose(owner, told)
        before = self._idle.pop(slot)
        lease = Lease(slot, reuse=before is not None and before.tenant == owner.tenant)
        try:
            if before != owner:
                await self._exchange(lease, before, owner)
            yield lease
        finally:
            self._idle[slot] = owner if lease.filled or lease.reuse else None  # nobody knows whose
            self._told[slot] = told if lease.filled else b""
            self._savable[slot] = lease.savable
            self._free.release()

    async def _acquire(self) -> None:
        try:
            async with asyncio.timeout(self._deadline):
                await self._free.acquire()
        except TimeoutError as error:
            raise Unavailable("rate_limit_exceeded", "The model is busy; try again.") from error

    async def _exchange(self, lease: Lease, before: Owner | None, owner: Owner) -> None:
        """Save what the slot holds, and restore what was saved of its new owner."""
        reuse, lease.reuse = lease.reuse, False  # should this be given up halfway
        if before is not None and self._savable[lease.slot]:
            await self._saved.save(lease.slot, before)
        lease.reuse = await self._saved.restore(lease.slot, owner) or reuse

    def _choose(self, owner: Owner, told: bytes) -> int:
        newest = list(reversed(self._idle.items()))
        own = (slot for slot, last in newest if last == owner)
        continued = (
            slot
            for slot, last in newest
            if last and last.tenant == owner.tenant and _continues(self._told[slot], told)
        )
        return next(own, next(continued, newest[-1][0]))


def _continues(before: bytes, told: bytes) -> bool:
    """Whether a prompt begins with all of another one."""
    return bool(before) and told.startswith(before) and told[len(before) : len(before) + 1] == b","
