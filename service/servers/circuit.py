"""Whether a server can be asked, from how it did lately. Pure: it is told what happened."""

import enum


class Health(enum.Enum):
    """What is known of a server."""

    UP = "up"
    TRIAL = "trial"
    """It was away, and is well as far as it says: the next turn shows."""
    DOWN = "down"


class Circuit:
    """How one server fares. It is down until it was met."""

    def __init__(self, failures: int) -> None:
        """`failures` in a row is what takes a server down."""
        self.health = Health.DOWN
        self._allowed = failures
        self._failures = 0

    def well(self) -> None:
        """The server says that it is well: if it was down, it is tried again."""
        self._failures = 0
        if self.health is Health.DOWN:
            self.health = Health.TRIAL

    def answered(self) -> None:
        """The server began to answer a turn."""
        self._failures = 0
        if self.health is Health.TRIAL:
            self.health = Health.UP

    def failed(self) -> None:
        """The server could not be reached or broke off. On trial, once is enough."""
        self._failures += 1
        if self.health is Health.TRIAL or self._failures >= self._allowed:
            self.health = Health.DOWN
