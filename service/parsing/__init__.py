"""What a model wrote, told apart: thoughts, text, and calls of tools.

For model servers that leave this to their callers. Only what the model sampled comes here, so nothing
that a user or a tool said can become a call.
"""

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from service.backends import Produced
from turnwire.v1 import items_pb2

Scores: TypeAlias = Sequence[items_pb2.Logprob]
"""How likely the tokens of a text were, where that is wanted. Their bytes are those of the text."""


class Reader(Protocol):
    """Makes sense of sampled text."""

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Read more; hold back only what cannot be told yet."""

    def end(self) -> list[Produced]:
        """Read what was held back: the model has finished. Raises `ModelError`."""

    def cut(self) -> list[Produced]:
        """Read what was held back: the model was stopped, and may have been in the middle."""
