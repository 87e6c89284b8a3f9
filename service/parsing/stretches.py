"""Stretches of an answer: text or thoughts, up to a mark that may begin something else."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from service.backends import Produced


@dataclass(frozen=True, slots=True)
class Stretch:
    """One kind of writing, and the marks that may end it."""

    say: Callable[[int], list[Produced]]
    """Takes so many characters off what is held."""
    marks: re.Pattern[str] | None
    """Any of the marks; None if there are none."""
    doubts: re.Pattern[str] | None
    """What may be, or come before, the beginning of a mark."""
    anywhere: Sequence[str]
    """Marks that count wherever they stand; the others count where they begin a line."""
    anywhere_begun: tuple[str, ...]
    at_line_begun: tuple[str, ...]

    def found(self, text: str) -> Iterable[re.Match[str]]:
        """Return the marks in a text."""
        return self.marks.finditer(text) if self.marks else ()

    def doubtful(self, text: str) -> bool:
        """Return whether a text might have to be held back."""
        return self.doubts is not None and self.doubts.search(text) is not None


def stretch(
    say: Callable[[int], list[Produced]], anywhere: Sequence[str], at_line: Sequence[str]
) -> Stretch:
    """Return a stretch that these marks may end."""
    marks = sorted([*anywhere, *at_line], key=len, reverse=True)
    firsts = "".join(re.escape(mark[0]) for mark in marks)
    return Stretch(
        say,
        re.compile("|".join(map(re.escape, marks))) if marks else None,
        re.compile(rf"[{firsts}\n]") if marks else None,
        anywhere,
        beginnings(anywhere),
        beginnings(at_line),
    )


def beginnings(marks: Iterable[str]) -> tuple[str, ...]:
    """Return what is not yet one of these marks and may become it, longest first."""
    begun = {mark[:length] for mark in marks for length in range(1, len(mark))}
    return tuple(sorted(begun, key=len, reverse=True))


def begun(text: str, possible: tuple[str, ...]) -> int:
    """Return how many characters at the end of a text may be the beginning of a mark."""
    if not text.endswith(possible):
        return 0
    return next(len(beginning) for beginning in possible if text.endswith(beginning))
