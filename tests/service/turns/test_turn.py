"""The rules of one turn: order, numbers, and what the client can rebuild from them."""

from collections.abc import Sequence

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
    Text,
    WholeItem,
)
from service.errors import ModelError
from service.turns.turn import Turn
from turnwire import json_codec
from turnwire.delta import Event, to_message
from turnwire.v1 import events_pb2, items_pb2, responses_pb2

STOP = Finished("stop", input_tokens=7, cached_tokens=3, output_tokens=2)


def turn(stream_id: str | None = None) -> Turn:
    return Turn(responses_pb2.Response(id=f"resp_{'1' * 32}", object="response"), stream_id)


def played(
    *batches: Sequence[Produced], stream_id: str | None = None
) -> list[events_pb2.ServerEvent]:
    rules = turn(stream_id)
    events: list[Event] = list(rules.begin())
    for batch in batches:
        events += rules.produced(batch)
    rules.settle(now=5)
    events += rules.ended()
    return [to_message(event) for event in events]


def kinds(events: Sequence[events_pb2.ServerEvent]) -> list[str | None]:
    return [event.WhichOneof("kind") for event in events]


def test_an_item_that_comes_whole_is_told_at_once_under_an_id_of_ours() -> None:
    searched = items_pb2.Item(other_json='{"type":"web_search_call","id":"ws_1","new":[2.50]}')
    events = played([Text("Well."), WholeItem(searched), Text("Found.")], [STOP])
    response = events[-1].completed.response
    assert [item.WhichOneof("kind") for item in response.output] == [
        "message",
        "other_json",
        "message",
    ]
    whole = response.output[1]
    assert whole.other_json != searched.other_json
    assert '"new":[2.50]' in whole.other_json
    assert f"{'1' * 32}" in whole.other_json
    assert [e.output_item_added.item for e in events if e.HasField("output_item_added")][1] == whole
    assert [e.output_item_done.item for e in events if e.HasField("output_item_done")][1] == whole


def test_text_is_told_in_the_protocols_order() -> None:
    events = played([Text("Hel"), Text("lo")], [STOP])
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item_added",
        "content_part_added",
        "output_text_delta",
        "output_text_delta",
        "output_text_done",
        "content_part_done",
        "output_item_done",
        "completed",
    ]
    assert events[6].output_text_done.text == "Hello"
    assert events[8].output_item_done.item.message.content[0].output_text.text == "Hello"
    assert events[8].output_item_done.item.message.status == "completed"


def test_a_message_begins_with_empty_content() -> None:
    added = played([Text("x")], [STOP])[2]
    assert b'"content":[]' in json_codec.encode(added)


@pytest.mark.rule("EV-3", "EV-5")
def test_a_function_call_is_told_in_the_protocols_order() -> None:
    events = played([FunctionCallBegins("add"), CallText('{"a":'), CallText("1}")], [STOP])
    assert kinds(events)[2:-1] == [
        "output_item_added",
        "function_call_arguments_delta",
        "function_call_arguments_delta",
        "function_call_arguments_done",
        "output_item_done",
    ]
    call = events[-1].completed.response.output[0].function_call
    assert (call.name, call.arguments, call.status) == ("add", '{"a":1}', "completed")
    assert events[2].output_item_added.item.function_call.call_id == call.call_id
    assert events[2].output_item_added.item.function_call.arguments == ""


@pytest.mark.rule("EV-3", "EV-5")
def test_a_custom_call_is_told_in_the_protocols_order() -> None:
    events = played([CustomCallBegins("sh"), CallText("ls")], [STOP])
    assert kinds(events)[2:-1] == [
        "output_item_added",
        "custom_tool_call_input_delta",
        "custom_tool_call_input_done",
        "output_item_done",
    ]
    assert events[-1].completed.response.output[0].custom_tool_call.input == "ls"


@pytest.mark.rule("EV-3")
def test_a_refusal_is_told_in_the_protocols_order() -> None:
    events = played([RefusalText("No.")], [STOP])
    assert kinds(events)[3:-2] == [
        "content_part_added",
        "refusal_delta",
        "refusal_done",
        "content_part_done",
    ]


@pytest.mark.rule("EV-3", "EV-6")
def test_reasoning_is_told_in_the_protocols_order() -> None:
    events = played(
        [ReasoningSummaryText("short"), ReasoningText("long")], [Text("answer")], [STOP]
    )
    assert kinds(events)[2:13] == [
        "output_item_added",
        "reasoning_summary_part_added",
        "reasoning_summary_text_delta",
        "reasoning_summary_text_done",
        "reasoning_summary_part_done",
        "content_part_added",
        "reasoning_text_delta",
        "reasoning_text_done",
        "content_part_done",
        "output_item_done",
        "output_item_added",
    ]
    reasoning = events[11].output_item_done.item.reasoning
    assert reasoning.summary[0].summary_text.text == "short"
    assert reasoning.content[0].reasoning_text.text == "long"


@pytest.mark.rule("EV-4")
def test_text_and_a_refusal_are_parts_of_one_message() -> None:
    events = played([Text("Well, "), RefusalText("no.")], [STOP])
    [item] = events[-1].completed.response.output
    assert [part.WhichOneof("kind") for part in item.message.content] == ["output_text", "refusal"]
    assert events[8].refusal_delta.content_index == 1


def test_parallel_calls_are_items_of_their_own() -> None:
    events = played(
        [FunctionCallBegins("a"), CallText("{}"), FunctionCallBegins("b"), CallText("{}")], [STOP]
    )
    output = events[-1].completed.response.output
    assert [item.function_call.name for item in output] == ["a", "b"]
    assert len({item.function_call.call_id for item in output}) == 2


def test_an_item_that_ends_is_followed_by_another_of_its_kind() -> None:
    events = played([Text("one"), ItemEnds(), Text("two")], [STOP])
    output = events[-1].completed.response.output
    assert [item.message.content[0].output_text.text for item in output] == ["one", "two"]


def test_a_turn_without_output_completes() -> None:
    assert kinds(played([STOP])) == ["created", "in_progress", "completed"]


@pytest.mark.parametrize(
    ("finished", "told"),
    [
        (STOP._replace(reason="length"), "max_output_tokens"),
        (STOP._replace(reason="content_filter"), "content_filter"),
    ],
)
def test_a_model_that_stops_early_leaves_an_incomplete_item(finished: Finished, told: str) -> None:
    events = played([Text("half")], [finished])
    assert events[-2].output_item_done.item.message.status == "incomplete"
    response = events[-1].incomplete.response
    assert response.incomplete_details.reason == told
    assert response.status == "incomplete"
    assert not response.HasField("completed_at")


def test_a_failure_is_the_one_terminal_event() -> None:
    rules = turn()
    rules.begin()
    rules.produced([Text("half")])
    [event] = [to_message(event) for event in rules.fail(ModelError("server_error", "gone"))]
    response = event.failed.response
    assert (response.status, response.error.code) == ("failed", "server_error")
    assert event.sequence_number == 5


def test_usage_is_told_at_the_end_only() -> None:
    events = played([Text("x")], [STOP])
    assert not events[0].created.response.HasField("usage")
    usage = events[-1].completed.response.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (7, 2, 9)
    assert usage.input_tokens_details.cached_tokens == 3


def test_events_carry_the_lane_they_were_asked_on() -> None:
    named = played([Text("x")], [STOP], stream_id="a")
    assert {event.stream_id for event in named} == {"a"}
    assert not any(event.HasField("stream_id") for event in played([Text("x")], [STOP]))


def test_arguments_without_a_call_are_the_model_servers_failure() -> None:
    rules = turn()
    rules.begin()
    assert rules.produced([CallText("{}")]) == []
    assert rules.broken


def test_text_inside_a_call_begins_a_message() -> None:
    events = played([FunctionCallBegins("a"), CallText("{}"), Text("x")], [STOP])
    output = events[-1].completed.response.output
    assert [item.WhichOneof("kind") for item in output] == ["function_call", "message"]


PIECES = st.one_of(
    st.builds(Text, st.text()),
    st.builds(RefusalText, st.text()),
    st.builds(ReasoningText, st.text()),
    st.builds(ReasoningSummaryText, st.text()),
    st.builds(FunctionCallBegins, st.text()),
    st.builds(CustomCallBegins, st.text()),
    st.just(ItemEnds()),
)


@pytest.mark.rule("EV-1", "EV-7")
@given(st.lists(st.lists(PIECES, max_size=5), max_size=5))
def test_any_output_is_numbered_without_gaps_and_rebuilds_from_its_deltas(
    batches: list[list[Produced]],
) -> None:
    events = played(*batches, [STOP])
    assert [event.sequence_number for event in events] == list(range(len(events)))
    terminal = {"completed", "failed", "incomplete"}
    assert [kind in terminal for kind in kinds(events)].index(True) == len(events) - 1
    text = "".join(
        event.output_text_delta.delta for event in events if event.HasField("output_text_delta")
    )
    done = "".join(
        event.output_text_done.text for event in events if event.HasField("output_text_done")
    )
    assert text == done
    items = [e.output_item_done.item for e in events if e.HasField("output_item_done")]
    assert items == list(events[-1].completed.response.output)
