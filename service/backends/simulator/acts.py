"""What a simulated model can do in a turn."""

import re
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from service.backends import (
    CallText,
    CustomCallBegins,
    FunctionCallBegins,
    Produced,
    ReasoningText,
    RefusalText,
    Text,
)

_PIECE = re.compile(r"\s*\S{1,12}|\s+\Z")
TOKENS = (Text, RefusalText, ReasoningText, FunctionCallBegins, CustomCallBegins, CallText)


class Stall(NamedTuple):
    """Send what there is, then nothing for a while."""

    seconds: float


class Cut(NamedTuple):
    """Stop as if the limit on output were reached."""


class Fail(NamedTuple):
    """Fail as a model server."""

    code: str


Act: TypeAlias = Produced | Stall | Cut | Fail
Spoken: TypeAlias = Produced | Stall | Fail


def speak(kind: Callable[[str], Produced], text: str) -> list[Act]:
    """Return a text as the deltas of a kind that it is sent in."""
    return [kind(piece) for piece in _PIECE.findall(text)]
