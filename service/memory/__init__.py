"""How much memory the process may have, and what gives way when that is not enough.

What conversations weigh is an estimate; what the process uses is the truth, which the kernel goes by.
So the budget of conversations follows the truth: it is never more than what they hold and what is left
below the soft mark.
"""

import enum
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from service.cache import Bounds, SegmentCache
from service.ledger import Weighed
from service.limits import MIB
from service.memory import heap
from service.memory.process import Process, Unknown, Usage
from service.metrics import Metrics
from service.pool import Pool, Reason, Standing

C = TypeVar("C", bound=SegmentCache[Any])

_EASE = 0.03
"""A mark is left this much below where it was reached, so that it is not crossed all the time."""
_MARGIN = 0.06
"""This much below the soft mark is aimed at, as parts of the limit."""
_LEAST = 16 * MIB
"""What conversations may always have: below that, it is not they who use the memory."""
_STEP = 32 * MIB
"""What they give way by at once, beyond the soft mark: more would be a pause for all."""
_GIVING_BACK = 10.0
"""Seconds between two times that free memory is given back while there is enough of it."""
_COLLECTING = 60.0
"""Seconds between two collections, beyond the soft mark: each is a pause."""


class Pressure(enum.IntEnum):
    """How near the end of its memory the process is."""

    NONE = 0
    SOFT = 1
    """Caches have given way, and take in only what cannot be had again."""
    HARD = 2
    """Nothing new is accepted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryLimits:
    """Bytes for all conversations together, and marks as parts of what the process may have."""

    budget: int = 1024 * MIB
    soft_mark: float = 0.80
    hard_mark: float = 0.92


class Memory:
    """All caches of the process, and the bounds they have together. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        limits: MemoryLimits | None = None,
        process: Process | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or MemoryLimits()
        self._process = process or Unknown()
        self._clock = clock
        self._pool = Pool(self._limits.budget)
        self._pressure = Pressure.NONE
        self._usage: Usage | None = None
        self._giving_back = _Every(_GIVING_BACK, clock)
        self._collecting = _Every(_COLLECTING, clock)
        self._relief: list[Callable[[], None]] = []

    @property
    def pressure(self) -> Pressure:
        """How near the end it is, as of the last look."""
        return self._pressure

    @property
    def budget(self) -> int:
        """Bytes that conversations may have, as of the last look."""
        return self._pool.budget

    @property
    def held(self) -> int:
        """Bytes of conversations that are held, each part counted once."""
        return self._pool.bytes

    def cache(self, kind: type[C], bounds: Bounds, evicted: Callable[[Reason], None]) -> C:
        """Return a new cache of conversations that is one connection's: it is one of these until closed."""
        return kind(bounds, self._clock, evicted, self._pool, Standing.OWN)

    def shared(self, kind: type[C], bounds: Bounds, evicted: Callable[[Reason], None]) -> C:
        """Return a new cache of conversations that is the whole process's."""
        return kind(bounds, self._clock, evicted, self._pool, Standing.SHARED)

    def using(self, node: Weighed) -> AbstractContextManager[None]:
        """Keep a node in memory while a turn continues it."""
        return self._pool.using(node)

    def relieve(self, shrink: Callable[[], None]) -> None:
        """Have something else that grows with clients shrink when the soft mark is exceeded.

        It is called on the event loop, at once and about once a minute for as long as that is so.
        """
        self._relief.append(shrink)

    def look(self) -> None:
        """Look at what the process uses, and make caches give way. Called about once a second."""
        if (usage := self._process.usage()) is None:
            return
        self._usage = usage
        self._pressure = self._pressure_at(usage.part)
        self._pool.tight = self._pressure >= Pressure.SOFT
        self._pool.budget = self._affordable(usage)
        self._pool.make_room()
        if usage.part > self._goal:
            self._give_back()

    def measure(self, metrics: Metrics) -> None:
        """Show these figures as metrics."""
        bytes_of = metrics.memory_bytes.labels
        bytes_of("held").set_function(lambda: self.held)
        bytes_of("budget").set_function(lambda: self.budget)
        bytes_of("resident").set_function(lambda: self._usage.resident if self._usage else 0)
        bytes_of("limit").set_function(lambda: self._usage.limit if self._usage else 0)
        metrics.memory_pressure.set_function(lambda: self.pressure)

    def _pressure_at(self, part: float) -> Pressure:
        """Return how near the end it is: a level that has been reached is left a little later."""
        marks = {Pressure.HARD: self._limits.hard_mark, Pressure.SOFT: self._limits.soft_mark}
        for pressure, mark in marks.items():
            if part >= (mark - _EASE if self._pressure >= pressure else mark):
                return pressure
        return Pressure.NONE

    @property
    def _goal(self) -> float:
        """The part of the limit that is aimed at."""
        return self._limits.soft_mark - _MARGIN

    def _affordable(self, usage: Usage) -> int:
        """Return what conversations may have now: what they hold, and what is left.

        While no mark is exceeded they keep what they hold. Beyond they give way by as much as is too
        much, in steps: what was let go of counts against the limit until it has been given back.
        """
        held = self._pool.bytes
        room = int(self._goal * usage.limit) - usage.used
        kept = {Pressure.NONE: held, Pressure.SOFT: held - _STEP, Pressure.HARD: held // 2}
        return min(max(held + room, kept[self._pressure], _LEAST), self._limits.budget)

    def _give_back(self) -> None:
        """Give free memory back: often only when it is needed, for it is likely to be used again."""
        if self._pool.tight and self._collecting.due():
            for shrink in self._relief:
                shrink()
            heap.collect()
        if self._giving_back.due() or self._pool.tight:
            heap.give_back()


class _Every:
    """Something that is due every so many seconds, at once the first time."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._last = float("-inf")

    def due(self) -> bool:
        """Whether it is time; if so, it is done now."""
        now = self._clock()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True
