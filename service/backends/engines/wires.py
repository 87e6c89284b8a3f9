"""What the gRPC of one engine says differently from that of others."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

from service.backends import Capabilities
from service.backends.engines import Ended, Event, Model, Request, Sampled, Score
from service.backends.engines.outcomes import ended_by_length


class Wire(Protocol):
    """The messages of one engine. Those that hold nothing are the same for all, and not made here."""

    kind: ClassVar[str]
    service: ClassVar[str]
    """The full name of its gRPC service."""
    capabilities: ClassVar[Capabilities]

    def model(self, data: bytes) -> Model:
        """Read what the engine says about its model; keep what it leaves to its callers to set."""

    def healthy(self, data: bytes) -> bool:
        """Read whether the engine is well."""

    def request(self, identity: str, request: Request) -> bytes:
        """Return a request without its prompt. Raises `ModelError`."""

    def event(self, data: bytes) -> Event:
        """Read one message of an answer. Raises `ModelError` if the engine gave up."""

    def abort(self, identity: str) -> bytes:
        """Return the request to stop."""


def event_of(told: Any, scores: Callable[[Any], Sequence[Score]]) -> Event:
    """Read one message of an answer: but for the scores of a chunk, all engines have the same.

    Raises `ModelError` if the engine gave up.
    """
    if told.HasField("complete"):
        by_length = ended_by_length(told.complete.finish_reason)
        return Ended(by_length, told.complete.cached_tokens)
    return Sampled(told.chunk.token_ids, scores(told.chunk), told.chunk.cached_tokens)
