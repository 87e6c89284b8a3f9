"""What is asked of a vault, counted by how it ended, and timed."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from service.metrics import Metrics
from service.store import StoreFull
from service.store.vault import Orphaned, StoreExhausted

T = TypeVar("T")

_RESULTS: Final[Mapping[type[BaseException], str]] = {
    StoreFull: "quota",
    StoreExhausted: "full",
    Orphaned: "miss",
}
"""What is said of an operation that ended like this; of any other failure, "unavailable"."""


@dataclass(slots=True)
class Outcome:
    """How an operation ended."""

    result: str = "ok"

    def of(self, found: T) -> T:
        """Take what was found, which is a miss if it is nothing; return it."""
        self.result = "ok" if found else "miss"
        return found


class Operations:
    """Counts operations."""

    def __init__(self, metrics: Metrics) -> None:
        self._counter = metrics.store_operations
        self._seconds = metrics.store_seconds

    @contextmanager
    def counted(self, operation: str) -> Iterator[Outcome]:
        """Count and time what is done meanwhile. `operation` is one of a few words of ours."""
        outcome, began = Outcome(), time.perf_counter()
        try:
            yield outcome
        except BaseException as error:
            outcome.result = _RESULTS.get(type(error), "unavailable")
            raise
        finally:
            self._counter.labels(operation, outcome.result).inc()
            self._seconds.labels(operation).observe(time.perf_counter() - began)
