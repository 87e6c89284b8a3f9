"""What a llama.cpp server streams while it completes a prompt."""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from service.backends.http import Answer
from service.backends.sse import Events
from service.backends.values import count_in, ids_in, object_in, text_in
from service.errors import ModelError
from service.rendering import Piece
from turnwire.v1 import items_pb2


class Sampled(NamedTuple):
    """More of a completion."""

    text: str
    pieces: Sequence[Piece]
    """The sampled ids, without those that say nothing (ends of turn, stop words). Text in place of
    ids that the server kept to itself: all but the last of a character that takes several."""
    scores: Sequence[items_pb2.Logprob] = ()
    """Of the tokens of `text`, where they were asked for. A character of several tokens counts as
    one, with the score of its last: the server tells no other."""


class _Score(NamedTuple):
    """How likely a token was, whose text may still be held back."""

    token: int
    logprob: float
    likeliest: Sequence[items_pb2.TopLogprob]

    def spelled(self, spelling: bytes) -> items_pb2.Logprob:
        """Return the score of a token with these bytes."""
        return items_pb2.Logprob(
            token=spelling.decode(errors="replace"),
            logprob=self.logprob,
            bytes=spelling,
            top_logprobs=self.likeliest,
        )


class Stopped(NamedTuple):
    """The end of a completion."""

    by_length: bool
    silent_pieces: int
    """How many of the last pieces say nothing after all: an end of turn that came with the text that
    until then might have become a stop word."""
    word: str
    """The stop word that ended it, which is not part of what was sampled."""
    input_tokens: int
    cached_tokens: int
    output_tokens: int


Spelling: TypeAlias = Callable[[Sequence[int]], Awaitable[list[bytes]]]
"""Tells the bytes of tokens."""


class Completion:
    """A completion on its way."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._events = Events()
        self._shown = 0
        self._withheld: list[int] = []
        self._last: Sequence[Piece] = ()

    async def read(self) -> list[Sampled | Stopped]:
        """Return all that one read yields, nothing after the end. Raises `ModelError`."""
        while piece := await self._answer.read():
            if events := [self._event(data) for data in self._events.feed(piece)]:
                return events
        return []

    def _event(self, data: bytes) -> Sampled | Stopped:
        event = object_in(data)
        try:
            return self._stopped(event) if event["stop"] else self._more(event)
        except (LookupError, TypeError) as error:
            raise ModelError(
                "server_error", "The model server failed while it was generating."
            ) from error

    def _more(self, event: dict[str, Any]) -> Sampled:
        text, ids = text_in(event["content"]), self._withheld + ids_in(event["tokens"])
        if not text:  # an end of turn, or what may become a stop word
            self._withheld, self._last = ids, ()
            return Sampled(text, [])
        before, self._shown = self._shown, count_in(event["tokens_predicted"])
        self._withheld = []
        self._last = ids if len(ids) == self._shown - before else [text]
        return Sampled(text, self._last)

    def _stopped(self, event: dict[str, Any]) -> Stopped:
        ended = event["stop_type"] == "eos"
        return Stopped(
            by_length=event["stop_type"] == "limit",
            silent_pieces=int(ended and any(isinstance(piece, int) for piece in self._last[-1:])),
            word=text_in(event["stopping_word"]),
            input_tokens=count_in(event["tokens_evaluated"]),
            cached_tokens=count_in(event["timings"]["cache_n"]),
            output_tokens=count_in(event["tokens_predicted"]),
        )


class ScoredCompletion(Completion):
    """A completion on its way, with how likely its tokens were."""

    def __init__(self, answer: Answer, likeliest: int, spell: Spelling) -> None:
        """`likeliest` is how many of the likeliest tokens are wanted at each place."""
        super().__init__(answer)
        self._likeliest = likeliest
        self._spell = spell
        self._unspelled: list[_Score] = []
        self._scores: deque[list[_Score]] = deque()  # a list for each event on its way out

    async def read(self) -> list[Sampled | Stopped]:
        """Return all that one read yields, nothing after the end. Raises `ModelError`."""
        events = await super().read()
        return [
            event._replace(scores=await self._spelled(event.text, self._scores.popleft()))
            if isinstance(event, Sampled)
            else event
            for event in events
        ]

    def _more(self, event: dict[str, Any]) -> Sampled:
        sampled = super()._more(event)
        for scored in event.get("completion_probabilities", ()):
            self._unspelled.append(_score(scored, self._likeliest))
        scores: list[_Score] = []
        if sampled.text:
            scores, self._unspelled = self._unspelled, []
        self._scores.append(scores)
        return sampled

    async def _spelled(self, text: str, scores: Sequence[_Score]) -> list[items_pb2.Logprob]:
        """Say of which token each score is: the server names none that it held back."""
        whole = text.encode()
        if len(scores) <= 1:
            return [score.spelled(whole) for score in scores]
        spellings = await self._spell([score.token for score in scores])
        for said in (spellings, spellings[:-1]):  # the last may be an end of turn
            if b"".join(said) == whole:
                return [score.spelled(token) for score, token in zip(scores, said, strict=False)]
        return [_Score(0, sum(score.logprob for score in scores), ()).spelled(whole)]


def _score(event: dict[str, Any], most: int) -> _Score:
    likeliest = [
        items_pb2.TopLogprob(token=top["token"], logprob=top["logprob"], bytes=top["bytes"])
        for top in event["top_logprobs"][:most]
    ]
    return _Score(event["id"], event["logprob"], likeliest)
