"""What is told again, against what was told: any output, cut in any way, stopped at any point."""

from collections.abc import Callable, Sequence
from typing import TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
from service.errors import ModelError
from service.turns.replay import replay
from service.turns.turn import Stop, Turn
from turnwire.delta import Event, to_message
from turnwire.v1 import events_pb2, items_pb2, responses_pb2, state_pb2

Told: TypeAlias = list[events_pb2.ServerEvent]
Act: TypeAlias = Callable[[Turn], Sequence[Event]]
"""Something that happens to a turn while it runs."""

SEARCHED = items_pb2.Item(other_json='{"type":"web_search_call","id":"ws_1"}')
FOUND = items_pb2.Item(function_call_output=items_pb2.FunctionCallOutput(call_id="c"))
FAILED = ModelError("server_error", "The model server is gone.")


class Telling:
    """A turn, and what its client was told of it. Every step proves that it can be told again."""

    def __init__(self, stream_id: str | None) -> None:
        settings = responses_pb2.Settings(model="m", metadata={"a": "b"})
        response = responses_pb2.Response(id=f"resp_{'1' * 32}", created_at=7, settings=settings)
        self.turn = Turn(response, stream_id, _sealed)
        self.told: Told = []

    def tell(self, events: Sequence[Event]) -> None:
        self.told += map(_bare, map(to_message, events))
        assert list(self.turn.told()) == self.told
        assert [event.sequence_number for event in self.told] == list(range(len(self.told)))

    def kept(self) -> tuple[bytes, bytes]:
        """Return what a store keeps of it, at the point where it does."""
        return self.turn.response.SerializeToString(), self.turn.trace().SerializeToString()


def _sealed(item: items_pb2.Item) -> items_pb2.Item:
    if not item.HasField("reasoning"):
        return item
    sealed = items_pb2.Item()
    sealed.CopyFrom(item)
    sealed.reasoning.encrypted_content = "sealed"
    return sealed


def _bare(event: events_pb2.ServerEvent) -> events_pb2.ServerEvent:
    bare = events_pb2.ServerEvent()
    bare.CopyFrom(event)
    bare.ClearField("stream_id")
    return bare


def told_again(kept: tuple[bytes, bytes]) -> Told:
    response = responses_pb2.Response.FromString(kept[0])
    trace = state_pb2.Trace.FromString(kept[1])
    whole = list(replay(response, trace))
    for after in range(-1, len(whole) + 2):
        assert list(replay(response, trace, after)) == whole[after + 1 :]
    return whole


def finished(reason: str) -> Finished:
    return Finished(reason, 7, 3, 2)  # type: ignore[arg-type]  # a word of the strategy below


TEXTS = st.text(max_size=4)
LOGPROBS = st.lists(
    st.builds(
        items_pb2.Logprob, token=TEXTS, logprob=st.floats(-9, 0), bytes=st.binary(max_size=2)
    ),
    max_size=2,
)
CALLS = st.tuples(
    st.one_of(
        st.builds(FunctionCallBegins, TEXTS, st.none() | TEXTS),
        st.builds(CustomCallBegins, TEXTS, st.none() | TEXTS),
    ),
    st.lists(st.builds(CallText, TEXTS), max_size=3),
).map(lambda call: [call[0], *call[1]])
OTHERS = st.one_of(
    st.builds(Text, TEXTS),
    st.builds(ScoredText, TEXTS, LOGPROBS),
    st.builds(RefusalText, TEXTS),
    st.builds(ReasoningText, TEXTS),
    st.builds(ReasoningSummaryText, TEXTS),
    st.just(ItemEnds()),
    st.sampled_from([WholeItem(SEARCHED), WholeItem(FOUND)]),
).map(lambda piece: [piece])
BATCHES: st.SearchStrategy[list[Produced]] = st.lists(st.one_of(OTHERS, CALLS), max_size=5).map(
    lambda pieces: [piece for several in pieces for piece in several]
)
ASIDES = st.sampled_from(
    [
        events_pb2.ServerEvent(steer_accepted=events_pb2.SteerAccepted()),
        events_pb2.ServerEvent(interrupt_accepted=events_pb2.InterruptAccepted(response_id="r")),
    ]
)


def _producing(batch: Sequence[Produced]) -> Act:
    return lambda turn: turn.produced(batch)


def _aside(event: events_pb2.ServerEvent) -> Act:
    return lambda turn: [turn.aside(_bare(event))]


def _steering(turn: Turn) -> Sequence[Event]:
    turn.steer()
    return []


ACTS = st.one_of(BATCHES.map(_producing), ASIDES.map(_aside), st.just(_steering))
STOPS = st.sampled_from([None, "steered", "interrupted", "cancelled", "content_filter"])
ENDS = st.sampled_from([None, "stop", "length", "content_filter"])


def run_of(telling: Telling, acts: Sequence[Act]) -> None:
    """Let a turn go on as the engine does: not after it is over."""
    for act in acts:
        if telling.turn.over:
            return
        telling.tell(act(telling.turn))


@pytest.mark.rule("RV-2", "EV-1")
@given(st.lists(ACTS, max_size=8), ENDS, STOPS, st.none() | st.just("lane"))
def test_whatever_was_told_is_told_again_at_every_point_and_from_the_store(
    acts: list[Act], reason: str | None, stop: Stop | None, stream_id: str | None
) -> None:
    telling = Telling(stream_id)
    telling.tell(telling.turn.begin())
    run_of(telling, acts)
    if reason:
        telling.tell(telling.turn.produced([finished(reason)]))
    if stop:
        telling.tell(telling.turn.stop(stop))
    elif not reason:  # the model server ended in the middle of an item
        telling.turn.failed(FAILED)
    else:
        telling.turn.settle(now=9)
    if stop:
        telling.turn.settle(now=9)
    kept = telling.kept()
    telling.tell(telling.turn.ended())
    assert told_again(kept) == telling.told


@pytest.mark.rule("RV-2")
@given(st.lists(ACTS, max_size=6), st.sampled_from(["started", "produced", "settled"]))
def test_a_failure_at_any_point_is_told_again(acts: list[Act], point: str) -> None:
    telling = Telling(None)
    telling.tell(telling.turn.begin())
    if point != "started":
        run_of(telling, acts)
    if point == "settled":
        telling.tell(telling.turn.produced([finished("stop")]))
        telling.turn.settle(now=9)
    telling.turn.failed(FAILED)
    telling.tell([])
    kept = telling.kept()
    telling.tell(telling.turn.ended())
    assert telling.told[-1].failed.response.error.code == "server_error"
    assert told_again(kept) == telling.told


@pytest.mark.rule("RV-2", "CP-1")
@given(
    before=st.lists(ASIDES, max_size=2),
    meanwhile=st.lists(ASIDES, max_size=3),
    after=st.lists(ACTS, max_size=4),
    fate=st.sampled_from(["compacted", "interrupted", "failed"]),
)
def test_a_compaction_is_told_again_whatever_happens_meanwhile(
    before: list[events_pb2.ServerEvent],
    meanwhile: list[events_pb2.ServerEvent],
    after: list[Act],
    fate: str,
) -> None:
    telling = Telling("lane")
    turn = telling.turn
    telling.tell(turn.begin())
    for event in before:
        telling.tell([turn.aside(_bare(event))])
    telling.tell(turn.compacting())
    for event in meanwhile:
        telling.tell([turn.aside(_bare(event))])
    match fate:
        case "compacted":
            _compacted(telling, after)
        case "interrupted":
            telling.tell(turn.stop("interrupted"))
            turn.settle(now=9)
        case "failed":
            turn.failed(FAILED)
    kept = telling.kept()
    telling.tell(turn.ended())
    assert told_again(kept) == telling.told


def _compacted(telling: Telling, after: Sequence[Act]) -> None:
    [added] = [e for e in telling.told if e.HasField("output_item_added")]
    item_id = added.output_item_added.item.compaction.id
    compaction = items_pb2.Compaction(id=item_id, encrypted_content="sealed")
    telling.tell(telling.turn.compacted(items_pb2.Item(compaction=compaction)))
    run_of(telling, after)
    telling.tell(telling.turn.produced([finished("stop")]))
    telling.turn.settle(now=9)


@pytest.mark.rule("RV-2", "CR-11")
@given(st.lists(ASIDES, max_size=3))
def test_a_warm_up_is_told_again(asides: list[events_pb2.ServerEvent]) -> None:
    telling = Telling(None)
    telling.tell(telling.turn.created())
    for event in asides:
        telling.tell([telling.turn.aside(_bare(event))])
    telling.turn.settle(now=9)
    kept = telling.kept()
    telling.tell(telling.turn.ended())
    assert told_again(kept) == telling.told
