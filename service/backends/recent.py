"""What was made of requests last: kept within a budget of bytes, least recently used out first."""

from collections import OrderedDict
from typing import Generic, NamedTuple, Protocol, TypeVar

KEPT_BYTES = 16 * 1024 * 1024
"""The usual budget."""


class Weighed(Protocol):
    """Something that knows about how much memory it takes."""

    @property
    def weight(self) -> int:
        """Bytes of memory, roughly. Asked once."""


V = TypeVar("V", bound=Weighed)


class _Kept(NamedTuple, Generic[V]):
    value: V
    weight: int


class Recent(Generic[V]):
    """Values by key. What weighs more than the budget is not kept."""

    def __init__(self, budget: int = KEPT_BYTES) -> None:
        self._budget = budget
        self._kept: OrderedDict[bytes, _Kept[V]] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> V | None:
        """Return a value, and keep it longer for having been asked for."""
        if (kept := self._kept.get(key)) is None:
            return None
        self._kept.move_to_end(key)
        return kept.value

    def drop(self, key: bytes) -> None:
        """Let go of a value."""
        if kept := self._kept.pop(key, None):
            self._bytes -= kept.weight

    def put(self, key: bytes, value: V) -> V:
        """Keep a value within the budget, and return it."""
        if key not in self._kept:
            self._kept[key] = _Kept(value, value.weight)
            self._bytes += self._kept[key].weight
        while self._bytes > self._budget:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.weight
        return value
