"""What a simulated model can do in a turn."""

import re
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias

from service.backends import (
    CallText,
    CustomCallBegins,
    FunctionCallBegins,
    Produced,
    ReasoningSummaryText,
    ReasoningText,
    RefusalText,
    ScoredText,
    Text,
)
from turnwire.v1 import items_pb2, responses_pb2

_PIECE = re.compile(r"\s*\S{1,12}|\s+\Z")
THOUGHTS = (ReasoningSummaryText, ReasoningText)
TOKENS = (Text, RefusalText, *THOUGHTS, FunctionCallBegins, CustomCallBegins, CallText)
_LOGPROB = -0.5  # of every token


class Stall(NamedTuple):
    """Send what there is, then nothing for a while."""

    seconds: float


class Slow(NamedTuple):
    """Take that long for every token from here on."""

    seconds: float


class Tell(NamedTuple):
    """Say what the model was told."""

    what: Literal["tools", "history"]


class Cut(NamedTuple):
    """Stop as if the limit on output were reached."""


class Fail(NamedTuple):
    """Fail as a model server."""

    code: str


Spoken: TypeAlias = Produced | Stall | Slow | Fail
Act: TypeAlias = Spoken | Tell | Cut


def speak(kind: Callable[[str], Produced], text: str) -> list[Spoken]:
    """Return a text as the deltas of a kind that it is sent in."""
    return [kind(piece) for piece in _PIECE.findall(text)]


def scored(spoken: Iterable[Spoken], settings: responses_pb2.Settings) -> list[Spoken]:
    """Return the same with text scored. Every token is as likely as every other."""
    count = settings.top_logprobs
    return [
        ScoredText(act.text, [_logprob(act.text, count)]) if isinstance(act, Text) else act
        for act in spoken
    ]


def _logprob(token: str, count: int) -> items_pb2.Logprob:
    """Score a token. The likeliest are itself, then `<token>~1`, `<token>~2` and so on."""
    likeliest = [token, *(f"{token}~{place}" for place in range(1, count))][:count]
    return items_pb2.Logprob(
        token=token,
        logprob=_LOGPROB,
        bytes=token.encode(),
        top_logprobs=[
            items_pb2.TopLogprob(token=other, logprob=_LOGPROB - place, bytes=other.encode())
            for place, other in enumerate(likeliest)
        ],
    )
