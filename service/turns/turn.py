"""The rules of one turn: what a model produced, as numbered events in the protocol's order.

Pure: it never waits, reads a clock or draws a random number. It is the only owner of
`sequence_number`.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

from service import ids
from service.backends import (
    CallText,
    CustomCallBegins,
    Finished,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    ScoredText,
    Text,
    WholeItem,
)
from service.errors import ModelError
from service.paging import prefix_of, with_id
from service.requests.calls import tie
from service.turns.output import (
    ITEM_OF,
    OpenItem,
    Stream,
    add_usage,
    compacting,
    terminal,
    told,
    whole,
)
from service.turns.replay import replay
from turnwire.delta import Delta, Event
from turnwire.v1 import events_pb2, items_pb2, responses_pb2, state_pb2

Stop: TypeAlias = Literal["steered", "interrupted", "cancelled", "content_filter"]
"""Why a turn is ended before its model has finished."""

_PREFIX = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a response is incomplete, by why its model stopped."""


class Turn:
    """One response from its creation to its one terminal event.

    The order of calls is `created` or `begin`, `produced` any number of times, `settle`, `ended`; `stop`
    before `settle` ends it early; `fail` instead of what is left, at any time. What they return are
    events to deliver, in order.
    """

    def __init__(
        self,
        response: responses_pb2.Response,
        stream_id: str | None,
        sealed: Callable[[items_pb2.Item], items_pb2.Item] = lambda item: item,
    ) -> None:
        self.response = response
        self._sealed = sealed
        """Gives a finished item what only this server can read."""
        self.finished: Finished | None = None
        """What the model server said last; None until it has said it."""
        self.stopped: Stop | None = None
        self.broken: ModelError | None = None
        """Why the turn has to fail, once all that could be told is."""
        self._stream_id = stream_id
        self._number = 0
        self._steered = False
        self._item: OpenItem | None = None
        self._item_number = 0
        """The number of the event with which the open item began."""
        self._stream: Stream | None = None
        self._compacting = ""
        """The compaction item that was begun, while it is."""
        self._warm_up = False
        self._dropped: state_pb2.DroppedTrace | None = None
        self._streams: list[state_pb2.StreamTrace] = []
        self._asides: list[events_pb2.ServerEvent] = []

    @property
    def over(self) -> bool:
        """Whether nothing more is wanted of the model."""
        return self.stopped is not None

    def created(self) -> list[Event]:
        """The response exists, and its model will not run: it is a warm-up. Say so."""
        self._warm_up = True
        return self._opened()

    def begin(self) -> list[Event]:
        """The parent is held and the model is about to run. Say so."""
        return [*self._opened(), self._snapshot("in_progress")]

    def produced(self, batch: Sequence[Produced]) -> list[Event]:
        """Tell what the model produced, as far as it makes sense: `broken` says what does not."""
        events: list[Event] = []
        try:
            self._add(batch, events)
        except ModelError as error:
            self.broken = error
        return events

    def keepalive(self) -> events_pb2.ServerEvent:
        """Say that the turn still runs. That is no event of the response: it has no number."""
        event = events_pb2.ServerEvent(keepalive=events_pb2.Keepalive())
        if self._stream_id is not None:
            event.stream_id = self._stream_id
        return event

    def aside(self, event: events_pb2.ServerEvent) -> events_pb2.ServerEvent:
        """Number an event that is not part of the output: an answer to a steering or interruption."""
        numbered = self._numbered(event)
        self._asides.append(_without_lane(numbered))
        return numbered

    def compacting(self) -> list[Event]:
        """The conversation is being compacted before the model runs. Say so.

        The item that comes of it is no part of the output before it is finished.
        """
        index = len(self.response.output)
        item_id = ids.item_id("cmp", self.response.id, index)
        self._compacting = item_id
        return [self.aside(event) for event in compacting(index, item_id)]

    def compacted(self, item: items_pb2.Item) -> list[Event]:
        """The conversation was compacted into an item. Say so."""
        index = len(self.response.output)
        self._compacting = ""
        self.response.output.append(item)
        self._asides = [event for event in self._asides if not _is_compacting(event)]
        self._stop_if_steered()
        return [self._numbered(told("output_item_done", output_index=index, item=item))]

    def steer(self) -> None:
        """End the turn at the next boundary between items where no call waits for the client.

        If it stands at one, it is over now.
        """
        self._steered = True
        if self._item is None and not self._compacting:
            self._stop_if_steered()

    def stop(self, reason: Stop) -> list[Event]:
        """End the turn now. An item that is not finished is no part of the output. Say so."""
        self.stopped = self.stopped or reason
        item_id = self._item.id if self._item else self._compacting
        if not item_id:
            return []
        index = len(self.response.output)
        self._drop()
        interrupted = events_pb2.ItemInterrupted(
            response_id=self.response.id, item_id=item_id, output_index=index
        )
        return [self.aside(events_pb2.ServerEvent(output_item_interrupted=interrupted))]

    def settle(self, now: int) -> None:
        """Write into the response how it ended. `now` is in seconds since 1970."""
        response = self.response
        reason = _INCOMPLETE.get(self.finished.reason) if self.finished else None
        response.ClearField("completed_at")
        if self._warm_up:
            self.spent(Finished("stop", 0, 0, 0))  # it cost nothing, and says so
        if self.stopped == "cancelled":
            response.status = "cancelled"
        elif self.stopped or reason:
            response.status = "incomplete"
            response.incomplete_details.reason = self.stopped or reason or ""
        else:
            response.status = "completed"
            response.completed_at = now

    def ended(self) -> list[Event]:
        """Say how the response ended: its one terminal event. It is settled, and kept."""
        return [self._snapshot(terminal(self.response))]

    def fail(self, error: ModelError) -> list[Event]:
        """The turn failed, at whatever point. Say so: its one terminal event."""
        self.failed(error)
        return self.ended()

    def failed(self, error: ModelError) -> None:
        """Write into the response that it failed."""
        self._drop()
        self.response.ClearField("completed_at")
        self.response.ClearField("incomplete_details")
        self.response.status = "failed"
        self.response.error.code = error.code
        self.response.error.message = error.message

    def spent(self, finished: Finished) -> None:
        """Add what a run of the model cost to the response's usage."""
        add_usage(self.response.usage, finished)

    def trace(self) -> state_pb2.Trace:
        """Return how the events so far were cut: with the response it tells them again."""
        open_streams = [self._stream.trace()] if self._stream else []
        return state_pb2.Trace(
            streams=[*self._streams, *open_streams],
            asides=[state_pb2.AsideTrace(event=e.SerializeToString()) for e in self._asides],
            warm_up=self._warm_up,
            dropped=self._dropped,
        )

    def told(self, after: int = -1) -> Iterator[events_pb2.ServerEvent]:
        """Tell the events so far, after a number, once more. What happens later is not among them."""
        so_far = responses_pb2.Response()
        so_far.CopyFrom(self.response)
        if self._item is not None:
            so_far.output.append(self._item.so_far(self._stream))
        trace, number = self.trace(), self._number
        return itertools.takewhile(
            lambda e: e.sequence_number < number, replay(so_far, trace, after)
        )

    def _opened(self) -> list[Event]:
        self.response.status = "in_progress"
        return [self._snapshot("created")]

    def _add(self, batch: Sequence[Produced], events: list[Event]) -> None:
        for piece in batch:
            stream = self._stream
            if stream is not None and type(piece) is stream.grows_by:
                text: str = piece.text  # type: ignore[union-attr]  # whatever grows has text
                stream.pieces.append(text)
                events.append(Delta(stream.source, self._number, text))
                self._number += 1
            elif not self.over or isinstance(piece, Finished):
                self._turn_to(piece, events)

    def _turn_to(self, piece: Produced, events: list[Event]) -> None:
        """Go over to another stream, item, or the end, and tell what that begins and ends."""
        match piece:
            case Finished():
                self.finished = piece
                self.spent(piece)
                self._end_item(events, "completed" if piece.reason == "stop" else "incomplete")
            case ItemEnds():
                self._end_item(events, "completed")
            case FunctionCallBegins():
                self._begin_call("function_call", piece, events)
            case CustomCallBegins():
                self._begin_call("custom_tool_call", piece, events)
            case WholeItem():
                self._add_whole(piece.item, events)
            case ScoredText() if self._stream is not None and self._stream.grows_by is Text:
                events.append(self._numbered(self._stream.scored(piece)))
            case _:
                self._begin_stream(piece, events)

    def _begin_stream(self, piece: Produced, events: list[Event]) -> None:
        if self._item and self._item.kind != ITEM_OF.get(type(piece), self._item.kind):
            self._end_item(events, "completed")
        if self.over:
            return
        if self._item is None:
            if isinstance(piece, CallText):
                raise ModelError("server_error", "The model server sent arguments without a call.")
            self._begin_item(ITEM_OF[type(piece)], events)
        self._open_stream(piece, events)
        self._add([piece], events)

    def _begin_call(
        self, kind: str, piece: FunctionCallBegins | CustomCallBegins, events: list[Event]
    ) -> None:
        self._end_item(events, "completed")
        if self.over:
            return
        call_id = ids.item_id("call", self.response.id, len(self.response.output))
        self._begin_item(kind, events, call_id=call_id, name=piece.name, namespace=piece.namespace)
        self._open_stream(CallText(""), events)

    def _add_whole(self, made: items_pb2.Item, events: list[Event]) -> None:
        """Tell of an item that is finished when it begins, under an id of ours."""
        self._end_item(events, "completed")
        if self.over:
            return
        index = len(self.response.output)
        item = with_id(made, ids.item_id(prefix_of(made), self.response.id, index))
        self.response.output.append(item)
        events += map(self._numbered, whole(index, item))
        self._stop_if_steered()

    def _begin_item(self, kind: str, events: list[Event], **fields: str | None) -> None:
        if kind == "message":
            fields["role"] = "assistant"
        index = len(self.response.output)
        identity = ids.item_id(_PREFIX[kind], self.response.id, index)
        self._item = OpenItem(kind, index, self._stream_id, id=identity, **fields)
        self._item_number = self._number
        events.append(self._numbered(self._item.begun()))

    def _open_stream(self, piece: Produced, events: list[Event]) -> None:
        assert self._item
        self._end_stream(events)
        self._stream = self._item.stream(piece)
        if self._stream is None:
            raise ModelError("server_error", "The model server mixed output of different kinds.")
        events += map(self._numbered, self._stream.begun())

    def _end_stream(self, events: list[Event]) -> None:
        if self._stream is not None:
            events += map(self._numbered, self._stream.ended())
            self._streams.append(self._stream.trace())
            self._stream = None

    def _end_item(self, events: list[Event], status: str) -> None:
        if self._item is None:
            return
        self._end_stream(events)
        item = self._sealed(self._item.finished(status))
        self.response.output.append(item)
        events.append(self._numbered(self._item.ended(item)))
        self._item = None
        self._stop_if_steered()

    def _stop_if_steered(self) -> None:
        if not self._steered or self.finished is not None:
            return
        ties = map(tie, self.response.output)
        if not any(tied and not tied.answers for tied in ties):
            self.stopped = self.stopped or "steered"

    def _drop(self) -> None:
        """Leave the open item out of the output; how far it had come is part of the trace."""
        if self._item is None:
            return
        aside = sum(event.sequence_number >= self._item_number for event in self._asides)
        self._dropped = state_pb2.DroppedTrace(
            item=self._item.so_far(self._stream), events=self._number - self._item_number - aside
        )
        if self._stream is not None:
            self._streams.append(self._stream.trace())
        self._item = self._stream = None

    def _snapshot(self, variant: str) -> events_pb2.ServerEvent:
        return self._numbered(told(variant, response=self.response))

    def _numbered(self, event: events_pb2.ServerEvent) -> events_pb2.ServerEvent:
        event.sequence_number = self._number
        if self._stream_id is not None:
            event.stream_id = self._stream_id
        self._number += 1
        return event


def _is_compacting(event: events_pb2.ServerEvent) -> bool:
    """Tell what the item itself says from when it is finished."""
    return event.WhichOneof("kind") in {"output_item_added", "compaction_compacting"}


def _without_lane(event: events_pb2.ServerEvent) -> events_pb2.ServerEvent:
    """Keep an event without its lane: who hears it again asks by its response."""
    bare = events_pb2.ServerEvent()
    bare.CopyFrom(event)
    bare.ClearField("stream_id")
    return bare
