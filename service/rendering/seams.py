"""Where turns meet in what a template renders: what lies between two of them is always the same."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

from service.rendering import Piece, Uncut
from service.rendering.made_up import AFTER, BEFORE

Follower: TypeAlias = Literal["user", "assistant", "tool", "system", "answer", "nobody"]
"""Who speaks after a turn: `answer` is the model itself, which is asked to."""


class Seams(NamedTuple):
    """What lies between a turn and the words of the made-up messages around it."""

    after_answer: Sequence[Piece]
    after_call: Sequence[Piece]
    """Behind the piece in which the arguments of a call end."""
    before: Mapping[Follower, Sequence[Piece]]
    """Up to the piece in which a follower's own words stand, and with it."""

    def end(self, pieces: Sequence[Piece], follower: Follower) -> int:
        """Return where a turn ends. Raises `Uncut` if it does not end where it should."""
        seam = self.before[follower]
        end = len(pieces) if follower in {"answer", "nobody"} else last(pieces, AFTER) + 1
        start = end - len(seam)
        same = _shape if follower == "tool" else list  # tools are called by other names
        if start < 0 or same(pieces[start:end]) != same(seam):
            raise Uncut
        return start


def start(pieces: Sequence[Piece], seam: Sequence[Piece]) -> int:
    """Return where a turn starts, behind this seam. Raises `Uncut` if that is not there."""
    place = first(pieces, BEFORE) + 1
    if list(pieces[place : place + len(seam)]) != list(seam):
        raise Uncut
    return place + len(seam)


def first(pieces: Sequence[Piece], word: str) -> int:
    """Return the first piece in which a word stands. Raises `Uncut` if there is none."""
    for place, piece in enumerate(pieces):
        if isinstance(piece, str) and word in piece:
            return place
    raise Uncut


def last(pieces: Sequence[Piece], word: str) -> int:
    """Return the last piece in which a word stands. Raises `Uncut` if there is none."""
    return len(pieces) - 1 - first(pieces[::-1], word)


def special(pieces: Sequence[Piece]) -> bool:
    """Whether there is a special token among pieces."""
    return any(isinstance(piece, int) for piece in pieces)


def _shape(pieces: Sequence[Piece]) -> list[Piece]:
    """Return pieces without what their texts say."""
    return [piece if isinstance(piece, int) else "" for piece in pieces]
