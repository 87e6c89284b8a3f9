"""What every face refuses in the same words, and the one place where refusals are counted.

`turnwire_refusals_total` has every request that was refused, by its status; those of a connection's
events the engine counts itself. A connection that is not opened is also one of
`turnwire_connections_total`, by why; a call or a request over HTTP that is refused is none.
"""

from typing import Final

from service.engine import Engine
from service.errors import Forbidden, Overloaded, Refusal, Unauthenticated
from service.limits import MIB, Limits

SMALL: Final = 16 * MIB
"""The most bytes of a request that may have few items: an item may hold an image."""
_OUTCOMES: Final[dict[type[Refusal], str]] = {Unauthenticated: "auth", Forbidden: "origin"}


class MessageTooLarge(Refusal):
    """A message, or a request's body, is larger than this server reads."""

    status = 413

    def __init__(self, bound: str) -> None:
        super().__init__(
            "message_too_large",
            f"A message may have at most {bound}. Send less of the conversation: "
            "previous_response_id stands for what was said before.",
        )


class TooSlow(Refusal):
    """A message, or a request's body, was begun and does not arrive."""

    status = 408

    def __init__(self, limits: Limits) -> None:
        super().__init__(
            "message_timeout",
            f"A message must arrive within {limits.receive_deadline:g} seconds. "
            "Send less at once: previous_response_id stands for what was said before.",
        )


def count_refused(engine: Engine, transport: str, refusal: Refusal) -> None:
    """Count a request that is refused, other than an event of a connection."""
    engine.refused(transport, refusal.status)


def count_rejected(engine: Engine, transport: str, refusal: Refusal) -> None:
    """Count a connection that is not opened; the engine itself counts for whom it has no room."""
    if not isinstance(refusal, Overloaded):
        engine.rejected(transport, _OUTCOMES.get(type(refusal), "invalid"))
