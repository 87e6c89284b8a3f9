"""The rules of one turn: what a model produced, as numbered events in the protocol's order.

Pure: it never waits, reads a clock or draws a random number. It is the only owner of
`sequence_number`.
"""

from collections.abc import Callable, Sequence

from service.backends import (
    CallText,
    CustomCallBegins,
    Finished,
    FunctionCallBegins,
    ItemEnds,
    Produced,
)
from service.errors import ModelError
from service.output import ITEM_OF, OpenItem, Stream, told
from turnwire.delta import Delta, Event
from turnwire.v1 import events_pb2, responses_pb2

NewId = Callable[[str], str]
"""Draws an id with the given prefix."""

_PREFIX = {"message": "msg", "reasoning": "rs", "function_call": "fc", "custom_tool_call": "ctc"}
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""Why a response is incomplete, by why its model stopped."""


class Turn:
    """One response from its creation to its one terminal event.

    The order of calls is `begin`, `produced` any number of times, `settle`, `ended`; or `fail` instead
    of what is left, at any time. What they return are events to deliver, in order.
    """

    def __init__(
        self, response: responses_pb2.Response, stream_id: str | None, new_id: NewId
    ) -> None:
        self.response = response
        self.finished: Finished | None = None
        """What the model server said last; None until it has said it."""
        self._stream_id = stream_id
        self._new_id = new_id
        self._number = 0
        self._item: OpenItem | None = None
        self._stream: Stream | None = None

    def created(self) -> list[Event]:
        """The response exists. Say so."""
        self.response.status = "in_progress"
        return [self._snapshot("created")]

    def begin(self) -> list[Event]:
        """The parent is held and the model is about to run. Say so."""
        return [*self.created(), self._snapshot("in_progress")]

    def produced(self, batch: Sequence[Produced]) -> list[Event]:
        """Tell what the model produced. Raises `ModelError` if it makes no sense."""
        events: list[Event] = []
        for piece in batch:
            stream = self._stream
            if stream is not None and type(piece) is stream.grows_by:
                text: str = piece.text  # type: ignore[union-attr]  # whatever grows has text
                stream.pieces.append(text)
                events.append(Delta(stream.source, self._number, text))
                self._number += 1
            else:
                self._turn_to(piece, events)
        return events

    def keepalive(self) -> list[Event]:
        """Say that the turn still runs."""
        return [self._numbered(events_pb2.ServerEvent(keepalive=events_pb2.Keepalive()))]

    def settle(self, now: int) -> None:
        """Write into the response how it ended. `now` is in seconds since 1970."""
        reason = _INCOMPLETE.get(self.finished.reason) if self.finished else None
        if reason:
            self.response.status = "incomplete"
            self.response.incomplete_details.reason = reason
        else:
            self.response.status = "completed"
            self.response.completed_at = now

    def ended(self) -> list[Event]:
        """Say how the response ended: its one terminal event. It is settled, and kept."""
        return [self._snapshot(self.response.status)]

    def fail(self, error: ModelError) -> list[Event]:
        """The turn failed, at whatever point. Say so: its one terminal event."""
        self.response.ClearField("completed_at")
        self.response.ClearField("incomplete_details")
        self.response.status = "failed"
        self.response.error.code = error.code
        self.response.error.message = error.message
        return self.ended()

    def _turn_to(self, piece: Produced, events: list[Event]) -> None:
        """Go over to another stream, item, or the end, and tell what that begins and ends."""
        match piece:
            case Finished():
                self._end_item(events, "completed" if piece.reason == "stop" else "incomplete")
                self._finish(piece)
            case ItemEnds():
                self._end_item(events, "completed")
            case FunctionCallBegins():
                self._begin_call("function_call", piece.name, events)
            case CustomCallBegins():
                self._begin_call("custom_tool_call", piece.name, events)
            case _:
                self._begin_stream(piece, events)
                events += self.produced([piece])

    def _begin_stream(self, piece: Produced, events: list[Event]) -> None:
        if self._item and self._item.kind != ITEM_OF.get(type(piece), self._item.kind):
            self._end_item(events, "completed")
        if self._item is None:
            if isinstance(piece, CallText):
                raise ModelError("server_error", "The model server sent arguments without a call.")
            self._begin_item(ITEM_OF[type(piece)], events)
        self._open_stream(piece, events)

    def _begin_call(self, kind: str, name: str, events: list[Event]) -> None:
        self._end_item(events, "completed")
        self._begin_item(kind, events, call_id=self._new_id("call"), name=name)
        self._open_stream(CallText(""), events)

    def _begin_item(self, kind: str, events: list[Event], **fields: str) -> None:
        if kind == "message":
            fields["role"] = "assistant"
        index = len(self.response.output)
        identity = self._new_id(_PREFIX[kind])
        self._item = OpenItem(kind, index, self._stream_id, id=identity, **fields)
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
            self._stream = None

    def _end_item(self, events: list[Event], status: str) -> None:
        if self._item is None:
            return
        self._end_stream(events)
        item = self._item.finished(status)
        self.response.output.append(item)
        events.append(self._numbered(self._item.ended(item)))
        self._item = None

    def _finish(self, finished: Finished) -> None:
        self.finished = finished
        usage = self.response.usage
        usage.input_tokens = finished.input_tokens
        usage.input_tokens_details.cached_tokens = finished.cached_tokens
        usage.output_tokens = finished.output_tokens
        usage.output_tokens_details.reasoning_tokens = finished.reasoning_tokens
        usage.total_tokens = finished.input_tokens + finished.output_tokens

    def _snapshot(self, variant: str) -> events_pb2.ServerEvent:
        return self._numbered(told(variant, response=self.response))

    def _numbered(self, event: events_pb2.ServerEvent) -> events_pb2.ServerEvent:
        event.sequence_number = self._number
        if self._stream_id is not None:
            event.stream_id = self._stream_id
        self._number += 1
        return event
