"""The classifier that needs nothing else: no server, no file, no library, no network.

It computes in Python, so a thread would not help: that would hold the interpreter for five milliseconds
at a time, and the event loop with it. Long texts are judged a piece at a time between what else is to be
done, all screenings together no more of them at once than one.
"""

import asyncio
from collections.abc import Sequence

from service.moderation.offensive import WEIGHTS, OffensiveLanguage, pieces, version_of
from service.moderation.verdicts import Failure, Verdict

OFFENSIVE = "offensive"
"""What it was trained to find: what people called offensive, which is more than profanity."""
_FLAGGED = 0.9
"""From where on it is flagged. At 0.5, as trained, it also minds processes that kill their children."""
_AT_ONCE = 64
"""Pieces that are judged in one go: in under a millisecond."""
_SHORT = 4_096  # characters, of all texts together: less than that
_LATE = Failure("classifier_unavailable", "The classifier did not answer in time.")


class EmbeddedClassifier:
    """Flags offensive language in English."""

    def __init__(self, name: str, deadline: float = 10.0) -> None:
        weights = WEIGHTS.read_bytes()
        self.name = name
        self.version = f"{version_of(weights)}-{_FLAGGED:g}"
        self._model = OffensiveLanguage.read(weights)
        self._deadline = deadline
        """Seconds for all texts of a screening together."""
        self._turn = asyncio.Lock()

    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        """Judge all texts; of a long one the gravest piece counts."""
        if sum(map(len, texts)) <= _SHORT:
            return [self._verdict(self._gravest(text)) for text in texts]
        try:
            async with asyncio.timeout(self._deadline):
                return [self._verdict(await self._in_turns(text)) for text in texts]
        except TimeoutError:
            return _LATE

    def close(self) -> None:
        """Do nothing: it holds nothing but memory."""

    def _gravest(self, text: str) -> float:
        scores = (self._model.score(piece) for batch in pieces(text, _AT_ONCE) for piece in batch)
        return max(scores, default=0.0)

    async def _in_turns(self, text: str) -> float:
        gravest = 0.0
        for batch in pieces(text, _AT_ONCE):
            async with self._turn:
                gravest = max(gravest, *map(self._model.score, batch))
                await asyncio.sleep(0)  # in turn still: the loop goes round between two pieces
        return gravest

    def _verdict(self, score: float) -> Verdict:
        flagged = score >= _FLAGGED
        return Verdict(
            self.name,
            {OFFENSIVE: round(score, 6)},
            frozenset({OFFENSIVE} if flagged else ()),
            flagged,
        )
