"""Items while a model produces them: what a client is told when each begins, grows and ends.

Events are unnumbered here; `service.turns.turn` numbers them. Their order is that of docs/protocol.md,
"Events". What differs between kinds of output is said once, in the table `FORMS`.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from service.backends import (
    CallText,
    Finished,
    Produced,
    ReasoningSummaryText,
    ReasoningText,
    RefusalText,
    ScoredText,
    Text,
)
from turnwire.delta import DeltaSource
from turnwire.v1 import events_pb2, items_pb2, responses_pb2, state_pb2

M = TypeVar("M")

_EMPTY_CONTENT = '{"content":[]}'
"""A message that has begun shows its content as empty, not as absent."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How a stream stands inside an item as one of its parts."""

    part: str
    """The variant of `ContentPart`."""
    field: str
    """The item's field that holds such parts."""
    index: str
    """The field of events that says which of them."""
    events: str
    """The variants of `ServerEvent` that begin and end one, without `_added` and `_done`."""


@dataclass(frozen=True, slots=True)
class Form:
    """How one kind of output is told."""

    item: str
    """The variant of `Item` it belongs to."""
    events: str
    """The variants of `ServerEvent` for more of it and all of it, without `_delta` and `_done`."""
    body: str
    """The field that holds all of it, in the last event and in the item or part."""
    framing: Framing | None = None


_CONTENT = "content_index"
FORMS: dict[tuple[type[Produced], str], Form] = {
    (Text, "message"): Form(
        "message",
        "output_text",
        "text",
        Framing("output_text", "content", _CONTENT, "content_part"),
    ),
    (RefusalText, "message"): Form(
        "message",
        "refusal",
        "refusal",
        Framing("refusal", "content", _CONTENT, "content_part"),
    ),
    (ReasoningSummaryText, "reasoning"): Form(
        "reasoning",
        "reasoning_summary_text",
        "text",
        Framing("summary_text", "summary", "summary_index", "reasoning_summary_part"),
    ),
    (ReasoningText, "reasoning"): Form(
        "reasoning",
        "reasoning_text",
        "text",
        Framing("reasoning_text", "content", _CONTENT, "content_part"),
    ),
    (CallText, "function_call"): Form("function_call", "function_call_arguments", "arguments"),
    (CallText, "custom_tool_call"): Form("custom_tool_call", "custom_tool_call_input", "input"),
}
STREAMED = frozenset(item for _, item in FORMS)
"""The kinds of items that are told piece by piece; others are told whole."""
ITEM_OF: dict[type[Produced], str] = {piece: item for piece, item in FORMS if piece is not CallText}
"""The kind of item that a piece of output begins. A call's text needs its call."""
ITEM_OF[ScoredText] = ITEM_OF[Text]


class Stream:
    """A stretch of an item that grows by deltas: a part of its content, or the body of a call."""

    def __init__(self, item: "OpenItem", form: Form, grows_by: type[Produced]) -> None:
        self.grows_by = grows_by
        self.pieces: list[str] = []
        self._scores: list[Sequence[items_pb2.Logprob]] = []
        """What came with each piece, as far as anything did."""
        self._item, self._form = item, form
        self._place = {"item_id": item.id, "output_index": item.index}
        if framing := form.framing:
            self._place[framing.index] = len(getattr(item.body, framing.field))
        template = told(f"{form.events}_delta", **self._place)
        if item.stream_id is not None:
            template.stream_id = item.stream_id
        self.source = DeltaSource(template)

    def begun(self) -> list[events_pb2.ServerEvent]:
        """Say that it begins, where it is a part."""
        framing = self._form.framing
        return [self._framed("added", self._part(framing, "", ()))] if framing else []

    def scored(self, piece: ScoredText) -> events_pb2.ServerEvent:
        """Say that text was added, and how likely it was."""
        self._scores += [()] * (len(self.pieces) - len(self._scores))
        self._scores.append(piece.logprobs)
        self.pieces.append(piece.text)
        event = self.source.message(0, piece.text)
        event.output_text_delta.logprobs.extend(piece.logprobs)
        return event

    def ended(self) -> list[events_pb2.ServerEvent]:
        """Say that it is finished, and let the item keep it."""
        text = "".join(self.pieces)
        done = told(f"{self._form.events}_done", **self._place, **{self._form.body: text})
        part = self.keep(self._item.body)
        if part is None:
            return [done]
        if part.output_text.logprobs:
            done.output_text_done.logprobs.extend(part.output_text.logprobs)
        return [done, self._framed("done", part)]

    def keep(self, body: Any) -> items_pb2.ContentPart | None:
        """Put what there is into an item's body; return it, where it is a part."""
        text = "".join(self.pieces)
        if not (framing := self._form.framing):
            setattr(body, self._form.body, text)
            return None
        part = self._part(framing, text, list(itertools.chain.from_iterable(self._scores)))
        getattr(body, framing.field).append(part)
        return part

    def cut(
        self, body: Any, trace: state_pb2.StreamTrace, skip: Callable[[int], int]
    ) -> Iterator[events_pb2.ServerEvent]:
        """Say again, delta by delta, what became of it in a finished item's body.

        `skip` is told how many deltas there are, and says how many of the first need not be said.
        """
        text, scores = self._whole(body)
        skipped = skip(len(trace.lengths))
        at = sum(trace.lengths[:skipped])
        self._take(text[:at], list(itertools.islice(scores, sum(trace.logprobs[:skipped]))))
        cuts = itertools.zip_longest(trace.lengths, trace.logprobs, fillvalue=0)
        for length, count in itertools.islice(cuts, skipped, None):
            piece = ScoredText(text[at : at + length], list(itertools.islice(scores, count)))
            at += length
            yield self.scored(piece) if trace.logprobs else self._more(piece.text)

    def _whole(self, body: Any) -> tuple[str, Iterator[items_pb2.Logprob]]:
        """Return all of its text in a finished item's body, and what was said of how likely it was."""
        whole = body
        if framing := self._form.framing:
            part = getattr(body, framing.field)[self._place[framing.index]]
            whole = getattr(part, framing.part)
        return getattr(whole, self._form.body), iter(getattr(whole, "logprobs", ()))

    def _take(self, text: str, logprobs: Sequence[items_pb2.Logprob]) -> None:
        """Take in one piece what was said before."""
        if text or logprobs:
            self.pieces.append(text)
            self._scores += [logprobs] if logprobs else []

    def trace(self) -> state_pb2.StreamTrace:
        """Return how it was cut into deltas."""
        variant = events_pb2.ServerEvent.DESCRIPTOR.fields_by_name[f"{self._form.events}_delta"]
        return state_pb2.StreamTrace(
            delta=variant.number,
            lengths=map(len, self.pieces),
            logprobs=map(len, self._scores),
        )

    def _more(self, text: str) -> events_pb2.ServerEvent:
        self.pieces.append(text)
        return self.source.message(0, text)

    def _part(
        self, framing: Framing, text: str, logprobs: Sequence[items_pb2.Logprob]
    ) -> items_pb2.ContentPart:
        part = _of_kind(items_pb2.ContentPart, framing.part, {self._form.body: text})
        if logprobs:
            part.output_text.logprobs.extend(logprobs)
        return part

    def _framed(self, which: str, part: items_pb2.ContentPart) -> events_pb2.ServerEvent:
        assert self._form.framing
        return told(f"{self._form.framing.events}_{which}", **self._place, part=part)


class OpenItem:
    """An item that the model has begun: its place, and what it has come to so far."""

    def __init__(self, kind: str, index: int, stream_id: str | None, **fields: str | None) -> None:
        self.kind, self.index, self.stream_id, self.id = kind, index, stream_id, str(fields["id"])
        self._item = _of_kind(items_pb2.Item, kind, {"status": "in_progress", **fields})
        self.body: Any = getattr(self._item, kind)

    def begun(self) -> events_pb2.ServerEvent:
        """Say that it begins, still empty."""
        return told("output_item_added", output_index=self.index, item=self._shown())

    def stream(self, piece: Produced) -> Stream | None:
        """Open the stream that `piece` is the first of; None if it belongs to another item."""
        return self.stream_of(Text if isinstance(piece, ScoredText) else type(piece))

    def stream_of(self, grows_by: type[Produced]) -> Stream | None:
        """Open a stream that grows by one kind of output; None if that belongs to another item."""
        form = FORMS.get((grows_by, self.kind))
        return Stream(self, form, grows_by) if form else None

    def finished(self, status: str) -> items_pb2.Item:
        """Return the item as later turns will replay it."""
        self.body.status = status
        return self._shown()

    def so_far(self, stream: Stream | None) -> items_pb2.Item:
        """Return a copy of the item as far as it has come, with the stream that is still open."""
        item = items_pb2.Item()
        item.CopyFrom(self._item)
        if stream is not None:
            stream.keep(getattr(item, self.kind))
        return item

    def ended(self, item: items_pb2.Item) -> events_pb2.ServerEvent:
        """Say that it is finished."""
        return told("output_item_done", output_index=self.index, item=item)

    def _shown(self) -> items_pb2.Item:
        if self.kind == "message":
            self.body.extra_json = "" if self.body.content else _EMPTY_CONTENT
        return self._item


def add_usage(usage: responses_pb2.Usage, finished: Finished) -> None:
    """Add what a run of a model cost."""
    usage.input_tokens += finished.input_tokens
    usage.input_tokens_details.cached_tokens += finished.cached_tokens
    usage.output_tokens += finished.output_tokens
    usage.output_tokens_details.reasoning_tokens += finished.reasoning_tokens
    usage.total_tokens += finished.input_tokens + finished.output_tokens


def whole(
    index: int, item: items_pb2.Item
) -> tuple[events_pb2.ServerEvent, events_pb2.ServerEvent]:
    """Say that an item begins and is finished."""
    return (
        told("output_item_added", output_index=index, item=item),
        told("output_item_done", output_index=index, item=item),
    )


def compacting(index: int, item_id: str) -> tuple[events_pb2.ServerEvent, events_pb2.ServerEvent]:
    """Say that the conversation is being compacted into an item."""
    item = items_pb2.Item(compaction=items_pb2.Compaction(id=item_id))
    return (
        told("output_item_added", output_index=index, item=item),
        told("compaction_compacting", item_id=item_id, output_index=index),
    )


def terminal(response: responses_pb2.Response) -> str:
    """Return the variant of the event that tells a response's end."""
    return "incomplete" if response.status == "cancelled" else response.status


def told(kind: str, **fields: Any) -> events_pb2.ServerEvent:
    """Return an unnumbered event of a kind that is named by its variant."""
    return _of_kind(events_pb2.ServerEvent, kind, fields)


def _of_kind(message: Callable[..., M], kind: str, fields: Mapping[str, Any]) -> M:
    """Return a message whose one variant is named by a string, as the table does."""
    return message(**{kind: fields})
