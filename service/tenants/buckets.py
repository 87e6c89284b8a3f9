"""How much may be had in a minute, with a minute's worth in store. Reads no clock: moments are arguments.

A bucket is one number, the moment at which it will be full again; what is taken from it moves that moment on.
So a limit that changes counts from then on, and what was taken under the old one weighs what it weighed.
"""

MINUTE = 60.0
_ROUNDING = 1e-6
"""Seconds that sums of moments may be off by."""


class Bucket:
    """What is left of a minute's worth. Rates are per minute and above zero; infinite ones cost nothing."""

    __slots__ = ("_full_at",)

    def __init__(self) -> None:
        self._full_at = 0.0

    def wait(self, amount: float, rate: float, now: float) -> float:
        """Return the seconds until so much can be taken.

        What is more than a minute's worth can be taken from a full bucket: it would have to wait for ever.
        """
        cost = min(amount * MINUTE / rate, MINUTE)
        seconds = self._full_at - now + cost - MINUTE
        return seconds if seconds > _ROUNDING else 0.0

    def take(self, amount: float, rate: float, now: float) -> None:
        """Take so much, also where there is less: the rest is a debt, and has to be waited for."""
        self._full_at = max(self._full_at, now) + amount * MINUTE / rate

    def full(self, now: float) -> bool:
        """Whether it holds a minute's worth, so that it is like a new one."""
        return self._full_at <= now
