"""The running proof that rendering turn by turn comes to the same as rendering at once.

Once in so many prompts the whole conversation is rendered anew before it is used. What a model sampled
need not be what rendering would make of it, so answers are not compared: what stands before them is.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias

Outcome: TypeAlias = Literal["identical", "respelled", "stale", "not_additive"]
"""What a proof came to: all ids are the same; only answers were sampled otherwise than they would be
rendered; what was kept was wrong, and was rendered anew; the template does not add up for this
conversation, which from now on is rendered at once."""

Ids: TypeAlias = Sequence[int]


class Anew(NamedTuple):
    """A conversation that was rendered anew."""

    whole: Ids
    """At once."""
    parts: Sequence[Ids]
    """Part by part: the preamble, the turns, the new input, the answer's opening."""
    said: Sequence[Ids]
    """Of each part what cannot have been sampled: what stands before its answer, or all of it."""


class Verdict(NamedTuple):
    """What a proof came to."""

    outcome: Outcome
    stale: frozenset[int] = frozenset()
    """The parts that were kept and are wrong."""


class Proof:
    """Says which prompts are to be proven, and is told what came of it."""

    def __init__(self, every: int, counted: Callable[[Outcome], None]) -> None:
        """One in `every` prompts is proven; none if it is 0."""
        self._every = every
        self._unproven = 0
        self.counted = counted

    @classmethod
    def never(cls) -> "Proof":
        """Return a proof that nobody asks for."""
        return cls(0, lambda _: None)

    def due(self) -> bool:
        """Count a prompt; tell whether this one is to be proven."""
        self._unproven += 1
        if not self._every or self._unproven < self._every:
            return False
        self._unproven = 0
        return True


def judge(kept: Sequence[Ids], anew: Anew) -> Verdict:
    """Compare what was kept of a conversation, part by part, with what it is when rendered anew."""
    if [token for part in anew.parts for token in part] != list(anew.whole):
        return Verdict("not_additive")
    changed = {i for i, (old, new) in enumerate(zip(kept, anew.parts, strict=True)) if old != new}
    stale = frozenset(i for i in changed if not _begins(kept[i], anew.said[i]))
    if stale:
        return Verdict("stale", stale)
    return Verdict("respelled" if changed else "identical")


def _begins(kept: Ids, said: Ids) -> bool:
    """Whether a turn begins with what was said, and an answer follows it."""
    return len(kept) > len(said) and list(kept[: len(said)]) == list(said)
