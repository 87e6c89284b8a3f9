"""What leads to an upstream: lines, each for one turn at a time."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol


class Owner(NamedTuple):
    """Whose turns may follow each other on a line."""

    tenant: str
    conversation: str


class Line(Protocol):
    """One way to the upstream, for one turn. Leaving it before the turn's end stops the upstream."""

    @property
    def held(self) -> str | None:
        """The response that the upstream holds on it, if it holds one on no other."""

    async def send(self, request: Sequence[bytes]) -> None:
        """Ask for a response. Raises `ModelError`."""

    async def read(self) -> Sequence[bytes]:
        """Return the events that have come since, nothing at the end. Raises `ModelError`."""

    def finish(self, held: str | None) -> None:
        """The response is complete; on this line alone the upstream holds it under an id, if it does."""


class Lines(Protocol):
    """All lines to one upstream."""

    def lease(self, owner: Owner, held: str | None) -> AbstractAsyncContextManager[Line]:
        """Lease a line, the one on which a response is held if there is one. Raises `ModelError`."""

    async def close(self) -> None:
        """Let go of all of them."""
