"""How much memory the process may have, and what gives way when that is not enough."""

import enum
import time
from collections.abc import Callable
from typing import Any, TypeVar

from service.cache import Bounds, Reason, SegmentCache

C = TypeVar("C", bound=SegmentCache[Any])


class Pressure(enum.IntEnum):
    """How near the end of its memory the process is."""

    NONE = 0
    SOFT = 1
    """Caches have given way, and take in only what is in use."""
    HARD = 2
    """Nothing new is accepted."""


class Memory:
    """All caches of the process, and the bounds they have together."""

    @property
    def pressure(self) -> Pressure:
        """How near the end it is, as of the last look."""
        return Pressure.NONE

    def cache(self, kind: type[C], bounds: Bounds, evicted: Callable[[Reason], None]) -> C:
        """Return a new cache of conversations that is one of these for as long as it is held."""
        return kind(bounds, time.monotonic, evicted)

    def look(self) -> None:
        """Look at what the process uses, and make caches give way. Called about once a second."""
