"""The events of a response told again, under the numbers they had, from the response and its trace.

A client that lost its connection picks a response up again where it was. Nothing is kept for that but
how the text was cut: the events follow from the items, by the forms they were first told in.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from service.backends import Produced
from service.turns.output import FORMS, STREAMED, OpenItem, compacting, terminal, told, whole
from turnwire.v1 import events_pb2, items_pb2, responses_pb2, state_pb2

_VARIANTS = events_pb2.ServerEvent.DESCRIPTOR.fields_by_name
_GROWS_BY: dict[int, type[Produced]] = {
    _VARIANTS[f"{form.events}_delta"].number: piece for (piece, _), form in FORMS.items()
}
"""The kind of output that a stream grows by, by the variant of its deltas."""
_IDENTITY = {"id", "role", "call_id", "name", "namespace"}
"""What an item shows when it begins."""


def replay(
    response: responses_pb2.Response, trace: state_pb2.Trace, after: int = -1
) -> Iterator[events_pb2.ServerEvent]:
    """Tell a response's events after a number, up to the one that ended it."""
    asides = deque(events_pb2.ServerEvent.FromString(aside.event) for aside in trace.asides)
    place = _Place(0, after, [event.sequence_number for event in asides])
    for event in _unnumbered(response, trace, place):
        while asides and asides[0].sequence_number <= place.number:
            aside = asides.popleft()
            place.number += aside.sequence_number == place.number
            if aside.sequence_number > after:
                yield aside
        event.sequence_number = place.number
        place.number += 1
        if event.sequence_number > after:
            yield event


@dataclass(slots=True)
class _Place:
    """Where in its numbers a response is being told again."""

    number: int
    """The next one."""
    after: int
    """Up to here nothing needs to be told."""
    asides: Sequence[int]

    def skip(self, deltas: int) -> int:
        """Pass over as many of so many deltas as need not be told; return how many these are."""
        skipped = max(0, min(deltas, self.after - self.number))
        if any(self.number <= aside < self.number + skipped for aside in self.asides):
            return 0
        self.number += skipped
        return skipped


def _unnumbered(
    response: responses_pb2.Response, trace: state_pb2.Trace, place: _Place
) -> Iterator[events_pb2.ServerEvent]:
    yield told("created", response=_opening(response))
    if not trace.warm_up:
        yield told("in_progress", response=_opening(response))
    streams = iter(trace.streams)
    for index, item in enumerate(response.output):
        yield from _item(index, item, streams, place)
    if trace.HasField("dropped"):
        yield from _dropped(len(response.output), trace.dropped, streams, place)
    yield told(terminal(response), response=response)


def _dropped(
    index: int,
    dropped: state_pb2.DroppedTrace,
    streams: Iterator[state_pb2.StreamTrace],
    place: _Place,
) -> Iterator[events_pb2.ServerEvent]:
    """Tell of an item as far as it had come."""
    begun, aside = place.number, 0
    for event in _item(index, dropped.item, streams, place):
        aside = sum(begun <= number < place.number for number in place.asides)
        if place.number - begun - aside >= dropped.events:
            return
        yield event


def _opening(response: responses_pb2.Response) -> responses_pb2.Response:
    """Return the response as it was before anything came of it."""
    return responses_pb2.Response(
        id=response.id,
        object=response.object,
        created_at=response.created_at,
        status="in_progress",
        settings=response.settings,
    )


def _item(
    index: int, item: items_pb2.Item, streams: Iterator[state_pb2.StreamTrace], place: _Place
) -> Iterator[events_pb2.ServerEvent]:
    kind = item.WhichOneof("kind") or ""
    if kind == "compaction":
        yield from compacting(index, item.compaction.id)
    elif kind not in STREAMED:
        yield from whole(index, item)
        return
    else:
        body = getattr(item, kind)
        fields = {
            field.name: value for field, value in body.ListFields() if field.name in _IDENTITY
        }
        opened = OpenItem(kind, index, None, **fields)
        yield opened.begun()
        for _ in range(_stream_count(item)):
            yield from _stream(opened, body, next(streams), place)
    yield told("output_item_done", output_index=index, item=item)


def _stream(
    opened: OpenItem, body: Any, trace: state_pb2.StreamTrace, place: _Place
) -> Iterator[events_pb2.ServerEvent]:
    stream = opened.stream_of(_GROWS_BY[trace.delta])
    assert stream
    yield from stream.begun()
    yield from stream.cut(body, trace, place.skip)
    yield from stream.ended()


def _stream_count(item: items_pb2.Item) -> int:
    match item.WhichOneof("kind"):
        case "message":
            return len(item.message.content)
        case "reasoning":
            return len(item.reasoning.summary) + len(item.reasoning.content)
        case _:
            return 1
