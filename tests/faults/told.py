"""One response as its client hears it: its numbers, its order, its one end (docs/protocol.md, "Events")."""

from collections.abc import Sequence
from typing import Any

from turnwire.v1 import events_pb2, items_pb2, responses_pb2

TERMINAL = {"completed", "failed", "incomplete"}
_ANSWERS = {"steer_accepted", "steer_pending", "steer_failed", "interrupt_accepted"}
_AFTER_THE_END = {"steer_pending", "steer_failed"}
_BODIES = ("text", "refusal", "arguments", "input")


class Told:
    """What was heard of one response so far. Every event is checked as it comes."""

    def __init__(self) -> None:
        self.events: list[events_pb2.ServerEvent] = []
        self.over = False
        self._output: list[items_pb2.Item] = []
        self._open: tuple[int, str] | None = None
        self._grown: list[str] = []

    @property
    def response(self) -> responses_pb2.Response:
        """The response as it was told last."""
        last = next(e for e in reversed(self.events) if _kind(e) in {"created", *TERMINAL})
        told: responses_pb2.Response = getattr(last, _kind(last)).response
        return told

    @property
    def text(self) -> str:
        """What the model said."""
        parts = [part for item in self._output for part in item.message.content]
        return "".join(part.output_text.text for part in parts)

    def hear(self, event: events_pb2.ServerEvent) -> None:
        """Check one more event."""
        kind = _kind(event)
        if kind == "keepalive":
            return
        assert event.sequence_number == len(self.events), f"{kind} leaves a gap, or comes twice"
        self.events.append(event)
        if self.over:
            assert kind in _AFTER_THE_END, f"{kind} after the end"
        elif kind in TERMINAL:
            self._end(kind)
        elif kind in {"created", "in_progress"}:
            assert len(self.events) == 1 + (kind == "in_progress"), f"{kind} at another place"
        elif kind not in _ANSWERS:
            self._item_event(kind, getattr(event, kind))

    def _end(self, kind: str) -> None:
        self.over = True
        assert self.response.id == self.events[0].created.response.id
        if kind == "failed":
            return
        assert self._open is None, "an item was begun and has no end"
        assert list(self.response.output) == self._output
        assert self.response.status in {kind, "cancelled"}

    def _item_event(self, kind: str, body: Any) -> None:
        match kind:
            case "output_item_added":
                assert self._open is None, "an item within another"
                assert body.output_index == len(self._output)
                self._open = (body.output_index, _id_of(body.item))
            case "output_item_done":
                assert self._open == (body.output_index, _id_of(body.item))
                self._output.append(body.item)
                self._close()
            case "output_item_interrupted":
                assert self._open == (body.output_index, body.item_id)
                self._close()
            case _:
                assert self._open == (body.output_index, body.item_id), f"{kind} of another item"
                self._grow(kind, body)

    def _grow(self, kind: str, body: Any) -> None:
        if kind.endswith("_delta"):
            self._grown.append(body.delta)
        elif kind.endswith("_done") and (whole := _body_of(body)) is not None:
            assert whole == "".join(self._grown), "the deltas say something else than the end"
            self._grown.clear()

    def _close(self) -> None:
        self._open = None
        self._grown.clear()


def bare(events: Sequence[events_pb2.ServerEvent]) -> list[events_pb2.ServerEvent]:
    """Return events up to the terminal one, without their lane: as a follower hears them."""
    without = []
    for event in events:
        copy = events_pb2.ServerEvent()
        copy.CopyFrom(event)
        copy.ClearField("stream_id")
        without.append(copy)
        if _kind(event) in TERMINAL:
            break
    return without


def _kind(event: events_pb2.ServerEvent) -> str:
    return event.WhichOneof("kind") or ""


def _id_of(item: items_pb2.Item) -> str:
    own: str = getattr(item, item.WhichOneof("kind") or "").id
    return own


def _body_of(body: Any) -> str | None:
    return next((getattr(body, name) for name in _BODIES if hasattr(body, name)), None)
