"""One answer on its way: from sampled ids to what they mean, and to the ids that are kept."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from service.backends import (
    CustomCallBegins,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    ReasoningText,
)
from service.backends.engines import Ended, Event, Sampled, Score
from service.backends.engines.spelling import Spelled, Speller
from service.backends.engines.stopping import StopWords
from service.parsing import Reader
from service.rendering import Detokenizer, Piece


class Limits(NamedTuple):
    """What ends an answer beside the engine."""

    ends: frozenset[int] = frozenset()
    """Tokens that end an answer: neither told nor kept."""
    words: Sequence[str] = ()
    calls: int | None = None
    """How many calls there may be."""


class Answer:
    """An answer, told apart token by token, so that what is kept is what was told."""

    def __init__(
        self, detokenizer: Callable[[], Detokenizer], reader: Reader, limits: Limits
    ) -> None:
        self._speller = Speller(detokenizer)
        self._words = StopWords(limits.words)
        self._reader = reader
        self._limits = limits
        self._calls = 0
        self._calling = False
        self._ended: Ended | None = None
        self.kept: list[Piece] = []
        """What was told, as the ids that were sampled; text where a stop word cut a token in two."""
        self.thought = False
        """Whether there are thoughts in it."""
        self.cached_tokens = 0
        self.output_tokens = 0
        self.reasoning_tokens = 0

    @property
    def complete(self) -> bool:
        """Whether nothing is to follow, although the engine may not have ended."""
        return self._ended is not None or self._words.found or self._calls == self._limits.calls

    @property
    def by_length(self) -> bool:
        """Whether it was cut off, by the engine or, in the middle of a call, by a stop word."""
        return self._calling or self._ended_by_length

    def take(self, event: Event) -> list[Produced]:
        """Read more of what the engine tells. Raises `ModelError`."""
        if self.complete:
            return []
        self.cached_tokens = event.cached_tokens or self.cached_tokens
        if isinstance(event, Sampled):
            return self._more(event)
        self._ended = event
        return []

    def end(self) -> list[Produced]:
        """Read what was held back. Raises `ModelError`."""
        if self._calls == self._limits.calls:
            return []
        produced = [] if self._words.found else self._held_back()
        cut = self._words.found or self._ended_by_length
        rest = self._counted(self._reader.cut() if cut else self._reader.end())
        self.thought = self.thought or _tells_thoughts(rest)
        return produced + rest

    @property
    def _ended_by_length(self) -> bool:
        return self._ended is not None and self._ended.by_length

    def _held_back(self) -> list[Produced]:
        last = self._speller.end()
        told = [*(self._words.push(last) if last else []), *self._words.end()]
        return [piece for token in told for piece in self._read(token)]

    def _more(self, sampled: Sampled) -> list[Produced]:
        self.output_tokens += len(sampled.ids)
        produced: list[Produced] = []
        for token, score in zip(sampled.ids, _aligned(sampled), strict=True):
            if not self.complete and token not in self._limits.ends:
                produced += self._token(token, score)
        return produced

    def _token(self, token: int, score: Score | None) -> list[Produced]:
        spelled = self._speller.push(token, score)
        told = self._words.push(spelled) if spelled else []
        return [piece for token in told for piece in self._read(token)]

    def _read(self, spelled: Spelled) -> list[Produced]:
        self.kept += spelled.ids or [spelled.text]
        produced = self._reader.push(spelled.text, spelled.scores)
        if _tells_thoughts(produced):
            self.thought = True
            self.reasoning_tokens += len(spelled.ids)
        return self._counted(produced)

    def _counted(self, produced: list[Produced]) -> list[Produced]:
        """Count calls, and leave out what comes after the last that there may be."""
        for place, piece in enumerate(produced):
            if isinstance(piece, FunctionCallBegins | CustomCallBegins):
                self._calling = True
            elif isinstance(piece, ItemEnds) and self._calling:
                self._calling = False
                self._calls += 1
                if self._calls == self._limits.calls:
                    return produced[: place + 1]
        return produced


def _tells_thoughts(produced: Sequence[Produced]) -> bool:
    return any(isinstance(piece, ReasoningText) for piece in produced)


def _aligned(sampled: Sampled) -> Sequence[Score | None]:
    """Return the score of each id, none where the engine did not say of which ids they are."""
    aligned = len(sampled.scores) == len(sampled.ids)
    return sampled.scores if aligned else [None] * len(sampled.ids)
