"""Sampled text on its way through a reader, with the scores of its tokens where they are wanted.

What a reader takes off at the beginning is told or dropped; a token goes where its first byte goes.
"""

from collections import deque
from collections.abc import Sequence

from service.backends import Produced, ReasoningText, ScoredText, Text
from turnwire.v1 import items_pb2


class Held:
    """Text that is held back. Short: what has to wait for long is parked, and not looked at again."""

    def __init__(self) -> None:
        self.text = ""
        self.parked = 0
        """Characters that are parked in front of the text."""
        self._parked: list[str] = []

    def add(self, text: str, scores: Sequence[items_pb2.Logprob]) -> None:
        """Hold more."""
        del scores
        self.text += text

    def tell(self, length: int) -> list[Produced]:
        """Take so many characters off as text."""
        told = self._taken(length)
        return [Text(told)] if told else []

    def think(self, length: int) -> list[Produced]:
        """Take so many characters off as reasoning."""
        thought = self.text[:length]
        self.drop(length)
        return [ReasoningText(thought)] if thought else []

    def drop(self, length: int) -> None:
        """Take so many characters off as nothing."""
        self._taken(length)

    def park(self, length: int) -> None:
        """Set so many characters aside: nothing is told or dropped before they are back."""
        parked = self._taken(length)
        self.parked += len(parked)
        self._parked.append(parked)

    def unpark(self) -> None:
        """Bring back what was set aside."""
        self.text = "".join([*self._parked, self.text])
        self._parked = []
        self.parked = 0

    def _taken(self, length: int) -> str:
        taken, self.text = self.text[:length], self.text[length:]
        return taken


class ScoredHeld(Held):
    """Text that is held back, and how likely its tokens were."""

    def __init__(self) -> None:
        super().__init__()
        self._scores: deque[items_pb2.Logprob] = deque()
        self._begun = 0  # bytes of a token whose beginning was taken off

    def add(self, text: str, scores: Sequence[items_pb2.Logprob]) -> None:
        """Hold more. The bytes of the scored tokens are those of the text."""
        self.text += text
        self._scores += scores

    def tell(self, length: int) -> list[Produced]:
        """Take so many characters off as text with the scores of its tokens."""
        told = self._taken(length)
        scores = self._scored(told)
        return [ScoredText(told, scores)] if told else []

    def drop(self, length: int) -> None:
        """Take so many characters off as nothing."""
        self._scored(self._taken(length))

    def _scored(self, text: str) -> list[items_pb2.Logprob]:
        size, scores = len(text.encode()), []
        while self._scores and self._begun < size:
            scores.append(self._scores.popleft())
            self._begun += len(scores[-1].bytes)
        self._begun = max(0, self._begun - size)
        return scores
