"""What chat servers stream: chunks of an answer, and what each of them says."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import orjson

from service.backends import (
    Finished,
    Produced,
    Prompt,
    ReasoningText,
    RefusalText,
    ScoredText,
    Text,
)
from service.backends.chat.calls import Calls
from service.backends.chat.errors import streamed_error
from service.backends.tools import Toolbox, one_call_only
from service.backends.values import count_in, ids_in, text_in
from service.conversation import Renderings
from service.errors import ModelError, Unavailable
from turnwire.v1 import items_pb2

_DONE = b"[DONE]"
_Reason: TypeAlias = Literal["stop", "length", "content_filter"]
_REASONS: dict[str, _Reason] = {"length": "length", "content_filter": "content_filter"}
"""Others are ends of the model's own."""
_BROKE_OFF = {"abort", "error"}
_SPEECH = ("reasoning_content", "reasoning", "content", "refusal")
"""What a delta may hold beside calls. Thoughts have one of two names, or both."""


class Usage(NamedTuple):
    """What a server counted."""

    input_tokens: int
    cached_tokens: int
    output_tokens: int
    reasoning_tokens: int


class Chunks:
    """Makes sense of one answer."""

    def __init__(self, prompt: Prompt, toolbox: Toolbox) -> None:
        self.done = False
        """Whether the server said that this was all."""
        self.over = False
        """Whether the answer ends here, whatever else the server says."""
        self.thought = False
        """Whether there were thoughts in it."""
        self._usage: Usage | None = None
        self._sampled: list[int] = []
        self._reason: str | None = None
        self._stop_word: Any = None
        self._calls = Calls(toolbox)
        self._one_call = one_call_only(prompt.settings)
        self._scored = prompt.logprobs
        self._scores: list[items_pb2.Logprob] = []
        self._pieces = 0

    @property
    def sampled(self) -> Sequence[int]:
        """The ids that were sampled, if they are known and say what the client was told.

        Stop words are sampled, and second calls where one is all that is allowed, and both withheld.
        """
        known = self._usage is not None and len(self._sampled) == self._usage.output_tokens
        withheld = isinstance(self._stop_word, str) or (self._one_call and self._calls.count)
        return self._sampled if known and not withheld else ()

    def read(self, events: Iterable[bytes]) -> list[Produced]:
        """Return what the events of one read say. Raises `ModelError`."""
        produced: list[Produced] = []
        try:
            for event in events:
                self._event(event, produced)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ModelError(
                "server_error", "The model server's answer cannot be understood."
            ) from error
        self._pieces += len(produced)
        return produced

    def finished(self, rendered: Renderings) -> Finished:
        """Sum up. Raises `Unavailable` if the answer has no end."""
        if self._reason in _BROKE_OFF or not (self._reason or self.done or self.over):
            raise Unavailable("server_error", "The model server broke off.")
        usage = self._usage or Usage(0, 0, self._pieces, 0)
        return Finished(
            _REASONS.get(self._reason or "", "stop"),
            usage.input_tokens,
            usage.cached_tokens,
            usage.output_tokens,
            usage.reasoning_tokens,
            rendered,
        )

    def _event(self, event: bytes, produced: list[Produced]) -> None:
        if self.over:
            return
        if event == _DONE:
            self.done = True
            return
        chunk = orjson.loads(event)
        if chunk.get("error"):
            raise streamed_error(chunk)
        if usage := chunk.get("usage"):
            self._usage = _usage(usage)
        if extension := chunk.get("sglext"):
            self._sampled += ids_in((extension.get("output_ids") or [[]])[0])
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                self._choice(choice, produced)

    def _choice(self, choice: dict[str, Any], produced: list[Produced]) -> None:
        self._sampled += ids_in(choice.get("token_ids"))
        if self._scored and (logprobs := choice.get("logprobs")):
            self._scores += map(_score, logprobs.get("content") or ())
        self._delta(choice.get("delta") or {}, produced)
        if reason := text_in(choice.get("finish_reason")):
            self._reason = reason
            self._stop_word = choice.get("stop_reason") or choice.get("matched_stop")
            if reason != "length":
                produced += self._calls.end()

    def _delta(self, delta: dict[str, Any], produced: list[Produced]) -> None:
        if any(delta.get(name) for name in _SPEECH):
            produced += self._calls.end()
        if thought := delta.get("reasoning_content") or delta.get("reasoning"):
            self.thought = True
            self._scores.clear()
            produced.append(ReasoningText(text_in(thought)))
        if text := delta.get("content"):
            produced.append(self._text(text_in(text)))
        if refusal := delta.get("refusal"):
            produced.append(RefusalText(text_in(refusal)))
        for piece in delta.get("tool_calls") or ():
            self._scores.clear()
            self._call(piece, produced)

    def _text(self, text: str) -> Text | ScoredText:
        """Return text with the scores of its tokens, also of such as came before it had become text."""
        scores, self._scores = self._scores, []
        return ScoredText(text, scores) if scores else Text(text)

    def _call(self, piece: dict[str, Any], produced: list[Produced]) -> None:
        if self._one_call and self._calls.count and self._calls.begins(piece):
            self.over = True  # the server does not hold the model to one call
            produced += self._calls.end()
        else:
            produced += self._calls.push(piece)


def _usage(usage: dict[str, Any]) -> Usage:
    """Read a server's count; members that few servers have are 0 where they are missing."""
    read = usage.get("prompt_tokens_details") or {}
    said = usage.get("completion_tokens_details") or {}
    return Usage(
        count_in(usage.get("prompt_tokens")),
        count_in(read.get("cached_tokens") or usage.get("prompt_cache_hit_tokens")),
        count_in(usage.get("completion_tokens")),
        count_in(said.get("reasoning_tokens") or usage.get("reasoning_tokens")),
    )


def _score(scored: dict[str, Any]) -> items_pb2.Logprob:
    likeliest = [
        items_pb2.TopLogprob(token=top["token"], logprob=top["logprob"], bytes=_bytes(top))
        for top in scored.get("top_logprobs") or ()
    ]
    return items_pb2.Logprob(
        token=scored["token"],
        logprob=scored["logprob"],
        bytes=_bytes(scored),
        top_logprobs=likeliest,
    )


def _bytes(scored: dict[str, Any]) -> Sequence[int]:
    told: Sequence[int] | None = scored.get("bytes")
    return str(scored["token"]).encode() if told is None else told
