"""Whether a server is worth asking, from how it did lately. Pure: it is told what happened, and when."""

_FAILURES = 5
_PAUSE = 1.0


class Circuit:
    """Opens after failures in a row; then one trial at a time is let through."""

    def __init__(self, failures: int = _FAILURES, pause: float = _PAUSE) -> None:
        """`pause` is the time between two trials, in seconds."""
        self._allowed = failures
        self._pause = pause
        self.failures = 0
        self._next = 0.0

    @property
    def open(self) -> bool:
        """Whether it failed too often."""
        return self.failures >= self._allowed

    def allows(self, now: float) -> bool:
        """Tell whether it may be asked. While the circuit is open, that takes the trial there is."""
        if not self.open:
            return True
        if now < self._next:
            return False
        self._next = now + self._pause
        return True

    def succeeded(self) -> None:
        """It did what it was asked for."""
        self.failures = 0

    def failed(self, now: float) -> None:
        """It did not."""
        self.failures += 1
        self._next = now + self._pause
