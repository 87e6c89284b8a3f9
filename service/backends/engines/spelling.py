"""Sampled ids as text: token by token, with how likely each was."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from service.backends.engines import Likely, Score
from service.parsing import Scores
from service.rendering import Detokenizer
from turnwire.v1 import items_pb2


class Spelled(NamedTuple):
    """A token with its text, or several whose bytes make one character."""

    ids: Sequence[int]
    text: str
    scores: Scores = ()

    def cut(self, length: int) -> "Spelled":
        """Return so many characters of it, which no id stands for."""
        text = self.text[:length]
        scores = [_logprob(text, score.logprob) for score in self.scores[:1]]
        return Spelled((), text, scores)


class Speller:
    """Spells one answer."""

    def __init__(self, detokenizer: Callable[[], Detokenizer]) -> None:
        self._new_detokenizer = detokenizer
        self._detokenizer = detokenizer()
        self._ids: list[int] = []
        self._scores: list[Score] = []

    def push(self, token: int, score: Score | None) -> Spelled | None:
        """Spell one more token; None while it is no whole character yet."""
        self._ids.append(token)
        if score is not None:
            self._scores.append(score)
        return self._spelled(self._detokenizer.push([token]))

    def end(self) -> Spelled | None:
        """Spell what never became a whole character."""
        return self._spelled(self._detokenizer.end()) or self._silent()

    def _spelled(self, text: str) -> Spelled | None:
        if not text:
            return None
        spelled = Spelled(self._ids, text, self._scored(text))
        self._ids, self._scores = [], []
        return spelled

    def _silent(self) -> Spelled | None:
        """Return tokens without a text."""
        ids, self._ids, self._scores = self._ids, [], []
        return Spelled(ids, "") if ids else None

    def _scored(self, text: str) -> Scores:
        """Score a text once, though it may have taken several tokens: its bytes stay together."""
        if not self._scores:
            return ()
        likeliest = self._scores[0].likeliest if len(self._scores) == 1 else ()
        scored = _logprob(text, sum(score.logprob for score in self._scores))
        scored.top_logprobs.extend(map(self._alternative, likeliest))
        return [scored]

    def _alternative(self, likely: Likely) -> items_pb2.TopLogprob:
        detokenizer = self._new_detokenizer()
        text = detokenizer.push([likely.token]) + detokenizer.end()
        return items_pb2.TopLogprob(token=text, logprob=likely.logprob, bytes=text.encode())


def _logprob(text: str, logprob: float) -> items_pb2.Logprob:
    return items_pb2.Logprob(token=text, logprob=logprob, bytes=text.encode())
