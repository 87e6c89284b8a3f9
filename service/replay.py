"""The events of a response told again, under the numbers they had, from the response and its trace.

A client that lost its connection picks a response up again where it was. Nothing is kept for that but
how the text was cut: the events follow from the items, by the forms they were first told in.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

from service.backends import Produced
from service.output import FORMS, OpenItem, compacting, terminal, told
from turnwire.v1 import events_pb2, items_pb2, responses_pb2, state_pb2

_VARIANTS = events_pb2.ServerEvent.DESCRIPTOR.fields_by_name
_GROWS_BY: dict[int, type[Produced]] = {
    _VARIANTS[f"{form.events}_delta"].number: piece for (piece, _), form in FORMS.items()
}
"""The kind of output that a stream grows by, by the variant of its deltas."""
_IDENTITY = {"id", "role", "call_id", "name", "namespace"}
"""What an item shows when it begins."""


def replay(
    response: responses_pb2.Response, trace: state_pb2.Trace
) -> Iterator[events_pb2.ServerEvent]:
    """Tell a response's events, from `response.created` to the one that ended it."""
    asides = deque(events_pb2.ServerEvent.FromString(aside.event) for aside in trace.asides)
    number = 0
    for event in _unnumbered(response, trace):
        while asides and asides[0].sequence_number == number:
            yield asides.popleft()
            number += 1
        event.sequence_number = number
        yield event
        number += 1


def _unnumbered(
    response: responses_pb2.Response, trace: state_pb2.Trace
) -> Iterator[events_pb2.ServerEvent]:
    yield told("created", response=_opening(response))
    if not trace.warm_up:
        yield told("in_progress", response=_opening(response))
    streams = iter(trace.streams)
    for index, item in enumerate(response.output):
        yield from _item(index, item, streams)
    yield told(terminal(response), response=response)


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
    index: int, item: items_pb2.Item, streams: Iterator[state_pb2.StreamTrace]
) -> Iterator[events_pb2.ServerEvent]:
    kind = item.WhichOneof("kind") or ""
    if kind == "compaction":
        yield from compacting(index, item.compaction.id)
    else:
        body = getattr(item, kind)
        fields = {
            field.name: value for field, value in body.ListFields() if field.name in _IDENTITY
        }
        opened = OpenItem(kind, index, None, **fields)
        yield opened.begun()
        for _ in range(_stream_count(item)):
            yield from _stream(opened, body, next(streams))
    yield told("output_item_done", output_index=index, item=item)


def _stream(
    opened: OpenItem, body: Any, trace: state_pb2.StreamTrace
) -> Iterator[events_pb2.ServerEvent]:
    stream = opened.stream_of(_GROWS_BY[trace.delta])
    assert stream
    yield from stream.begun()
    yield from stream.cut(body, trace)
    yield from stream.ended()


def _stream_count(item: items_pb2.Item) -> int:
    match item.WhichOneof("kind"):
        case "message":
            return len(item.message.content)
        case "reasoning":
            return len(item.reasoning.summary) + len(item.reasoning.content)
        case _:
            return 1
