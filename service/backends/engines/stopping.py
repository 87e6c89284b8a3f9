"""Stop words, found here: engines are told ids, which say nothing of texts.

An engine that looks for them itself has to detokenise, and would still tell the ids of the word.
"""

from collections import deque
from collections.abc import Sequence

from service.backends.engines.spelling import Spelled


class StopWords:
    """Holds back what may become a stop word, token by token."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = words
        self._held: deque[Spelled] = deque()
        self._text = ""
        self.found = False
        """Whether the answer has ended."""

    def push(self, token: Spelled) -> list[Spelled]:
        """Return what is surely told; nothing is after a stop word."""
        if not self._words:
            return [token]
        self._held.append(token)
        self._text += token.text
        found = [at for at in map(self._text.find, self._words) if at >= 0]
        if found:
            self.found = True
            return self._before(min(found))
        return self._released(len(self._text) - self._begun())

    def end(self) -> list[Spelled]:
        """Return what was held back: no stop word has come of it."""
        return self._released(len(self._text))

    def _begun(self) -> int:
        """Return how much of the end of what is held may be the beginning of a stop word."""
        longest = max(map(len, self._words)) - 1
        for size in range(min(longest, len(self._text)), 0, -1):
            if any(word.startswith(self._text[-size:]) for word in self._words):
                return size
        return 0

    def _released(self, length: int) -> list[Spelled]:
        """Let go of the tokens that are wholly within so many characters."""
        released: list[Spelled] = []
        size = 0
        while self._held and size + len(self._held[0].text) <= length:
            size += len(self._held[0].text)
            released.append(self._held.popleft())
        self._text = self._text[size:]
        return released

    def _before(self, word: int) -> list[Spelled]:
        """Return what is before a stop word, which may begin within a token."""
        whole = self._released(word)
        left = word - sum(len(token.text) for token in whole)
        return [*whole, self._held[0].cut(left)] if left else whole
