"""An upstream's events, read as what its model produced.

An item of which nothing was streamed is told whole at its end: not every server streams everything.
Events of types that nobody here knows are passed over, as the protocol asks of its clients.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import orjson

from service.backends import (
    CallText,
    CustomCallBegins,
    Finished,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    ReasoningSummaryText,
    ReasoningText,
    RefusalText,
    ScoredText,
    Text,
    WholeItem,
)
from service.backends.responses.errors import failure, senseless
from service.backends.responses.fragments import Made, Told, kept
from service.backends.values import count_in
from service.errors import ModelError
from turnwire import json_codec
from turnwire.v1 import items_pb2

_NO_EVENT = b"[DONE]"
_PARAGRAPH = "\n\n"
_DELTAS: Mapping[str, Callable[[str], Produced]] = {
    "response.output_text.delta": Text,
    "response.refusal.delta": RefusalText,
    "response.reasoning_text.delta": ReasoningText,
    "response.reasoning_summary_text.delta": ReasoningSummaryText,
}
_CALL_DELTAS = {
    "response.function_call_arguments.delta",
    "response.custom_tool_call_input.delta",
}
_CALLS: Mapping[str, Callable[[str, str | None], Produced]] = {
    "function_call": FunctionCallBegins,
    "custom_tool_call": CustomCallBegins,
}
_TOLD = {"message", "reasoning", *_CALLS}


class Reader:
    """Reads one response."""

    def __init__(self) -> None:
        self.over = False
        self.failed: ModelError | None = None
        """Why the response failed, if it did; what came before that is good."""
        self._items: list[bytes] = []
        self._calls: list[str] = []
        self._response: dict[str, Any] = {}
        self._begun = False
        """Whether the open item is a call that was told of."""
        self._streamed = False
        """Whether more of the open item than its beginning was told."""

    @property
    def response_id(self) -> str | None:
        """The upstream's id of the response, once that is over."""
        identity = self._response.get("id")
        return identity if isinstance(identity, str) and identity else None

    def read(self, events: Iterable[bytes]) -> list[Produced]:
        """Return what a batch of events tells, up to the response's end."""
        batch: list[Produced] = []
        try:
            for event in events:
                if self.over or event == _NO_EVENT:
                    break
                batch += self._told(orjson.loads(event))
        except (LookupError, TypeError, ValueError, AttributeError):
            self._fail(senseless())
        return batch

    def finished(self, told: Told, continued_as: str | None) -> Finished:
        """Sum up; `continued_as` is the id by which the upstream can go on from here."""
        usage = _object(self._response.get("usage"))
        return Finished(
            reason=self._reason(),
            input_tokens=_count(usage, "input_tokens"),
            cached_tokens=_count(usage.get("input_tokens_details"), "cached_tokens"),
            output_tokens=_count(usage, "output_tokens"),
            reasoning_tokens=_count(usage.get("output_tokens_details"), "reasoning_tokens"),
            rendered=told.renderings(Made(continued_as, self._calls), self._items),
        )

    def _reason(self) -> Literal["stop", "length", "content_filter"]:
        if self._response.get("status") in ("completed", None):
            return "stop"
        details = _object(self._response.get("incomplete_details"))
        return "content_filter" if details.get("reason") == "content_filter" else "length"

    def _told(self, event: dict[str, Any]) -> Sequence[Produced]:
        kind = event["type"]
        if kind in _DELTAS:
            self._streamed = True
            return [_delta(kind, event)]
        if kind in _CALL_DELTAS:
            self._streamed = self._begun
            return [CallText(_text(event["delta"]))] if self._begun else []
        return self._other(kind, event)

    def _other(self, kind: str, event: dict[str, Any]) -> Sequence[Produced]:
        match kind:
            case "response.output_item.added":
                return self._added(event["item"])
            case "response.output_item.done":
                return self._done(event["item"])
            case "response.reasoning_summary_part.added" if event.get("summary_index"):
                return [ReasoningSummaryText(_PARAGRAPH)]
            case "response.completed" | "response.incomplete":
                self._response = {**event["response"]}
                self.over = True
            case "response.failed":
                self._fail(failure(event["response"].get("error") or {}, 0))
            case "error":
                self._fail(failure(event.get("error") or event, int(event.get("status") or 0)))
        return []

    def _fail(self, error: ModelError) -> None:
        self.failed, self.over = error, True

    def _added(self, item: dict[str, Any]) -> Sequence[Produced]:
        """Tell that a call begins, unless its name is still to come."""
        begins = _begins(item)
        self._begun, self._streamed = bool(begins), False
        return begins

    def _done(self, item: dict[str, Any]) -> list[Produced]:
        told = [] if self._begun else _begins(item)
        if not self._streamed:
            told += _whole(item)
        if item["type"] not in _TOLD:
            told.append(WholeItem(json_codec.decode(items_pb2.Item, orjson.dumps(item))))
        elif item.get("status") != "incomplete":
            told.append(ItemEnds())
        self._keep(item)
        self._begun = self._streamed = False
        return told

    def _keep(self, item: dict[str, Any]) -> None:
        if item["type"] in _CALLS:
            self._calls.append(_text(item["call_id"]))
        self._items.append(kept(item))


def _begins(item: dict[str, Any]) -> list[Produced]:
    begins = _CALLS.get(item["type"])
    if begins is None or not item.get("name"):
        return []
    return [begins(_text(item["name"]), item.get("namespace") or None)]


def _delta(kind: str, event: dict[str, Any]) -> Produced:
    text = _text(event["delta"])
    if (scores := event.get("logprobs")) and kind == "response.output_text.delta":
        return ScoredText(text, [_score(score) for score in scores])
    return _DELTAS[kind](text)


def _score(score: dict[str, Any]) -> items_pb2.Logprob:
    return json_codec.decode(items_pb2.Logprob, orjson.dumps(score))


def _whole(item: dict[str, Any]) -> Iterator[Produced]:
    """Yield all that an item says."""
    match item["type"]:
        case "message":
            yield from map(_part, item["content"])
        case "reasoning":
            summary = _PARAGRAPH.join(part["text"] for part in item.get("summary") or ())
            thoughts = "".join(part["text"] for part in item.get("content") or ())
            yield from [ReasoningSummaryText(summary)] if summary else []
            yield from [ReasoningText(thoughts)] if thoughts else []
        case "function_call":
            yield CallText(_text(item["arguments"]))
        case "custom_tool_call":
            yield CallText(_text(item["input"]))


def _part(part: dict[str, Any]) -> Produced:
    if part["type"] == "refusal":
        return RefusalText(_text(part["refusal"]))
    return Text(_text(part["text"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _count(usage: object, name: str) -> int:
    count = _object(usage).get(name)
    return count_in(count) if isinstance(count, int) else 0


def _object(value: object) -> dict[str, Any]:
    """Return an object; an empty one for what is none: a sum is not worth failing a turn for."""
    return value if isinstance(value, dict) else {}
