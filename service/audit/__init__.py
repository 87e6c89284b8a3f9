"""What is written down of every turn once its client has heard the end: who, when, how much, never what."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A turn that has ended. Holds nothing of what was said."""

    ended_at: float
    """In seconds since 1970."""
    tenant: str
    credential: str
    transport: str
    response_id: str
    model: str
    outcome: str
    """A response's status: completed, incomplete, failed, cancelled."""
    error: str | None
    """The code of what went wrong."""
    stored: bool
    seconds: float
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int
    input_items: int
    flagged: bool | None
    """What screening said of it, where it was screened."""


class Journal(Protocol):
    """Where entries go."""

    def add(self, entry: Entry) -> None:
        """Take an entry. Never waits, never raises: it is written while the next turn runs."""
