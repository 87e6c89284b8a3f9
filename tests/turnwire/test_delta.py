import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwire import json_codec
from turnwire.delta import Delta, DeltaSource, to_json, to_message, to_wire
from turnwire.v1 import events_pb2

STREAMED = [
    "output_text_delta",
    "refusal_delta",
    "function_call_arguments_delta",
    "custom_tool_call_input_delta",
    "reasoning_summary_text_delta",
    "reasoning_text_delta",
]

texts = (
    st.text()
    | st.text(alphabet='"\\/\n\t\x00\x1f\x7f\u2028é😀a')
    | st.text(min_size=120, max_size=300)
)
numbers = st.integers(0, 5000) | st.integers(0, (1 << 63) - 1)


def template(kind: str) -> events_pb2.ServerEvent:
    event = events_pb2.ServerEvent()
    getattr(event, kind).item_id = "msg_1"
    return event


@st.composite
def templates(draw: st.DrawFn) -> events_pb2.ServerEvent:
    kind = draw(st.sampled_from(STREAMED))
    event = template(kind)
    members = getattr(event, kind)
    members.item_id = draw(texts)
    for index in ("output_index", "content_index", "summary_index"):
        if hasattr(members, index):
            setattr(members, index, draw(st.integers(0, 1000)))
    if draw(st.booleans()):
        event.stream_id = draw(texts)
    if draw(st.booleans()):
        members.extra_json = '{"obfuscation":"a1","delta_of":[1,2]}'
    return event


deltas = st.builds(Delta, st.builds(DeltaSource, templates()), numbers, texts)


@given(deltas)
def test_the_fast_json_is_the_slow_json(delta: Delta) -> None:
    assert delta.json() == json_codec.encode(delta.message())


@given(deltas)
def test_the_fast_bytes_are_the_slow_bytes(delta: Delta) -> None:
    assert delta.wire() == delta.message().SerializeToString(deterministic=True)


@given(st.builds(DeltaSource, templates()), st.lists(st.tuples(numbers, texts), min_size=2))
def test_deltas_of_one_source_do_not_touch_each_other(
    source: DeltaSource, tokens: list[tuple[int, str]]
) -> None:
    written = [
        (delta.json(), delta.wire()) for delta in (Delta(source, *token) for token in tokens)
    ]
    read = [events_pb2.ServerEvent.FromString(wire) for _, wire in written]
    assert [json_codec.encode(event) for event in read] == [text for text, _ in written]
    assert [event.sequence_number for event in read] == [number for number, _ in tokens]


@pytest.mark.parametrize("kind", STREAMED)
def test_every_kind_of_streamed_text_has_a_fast_road(kind: str) -> None:
    delta = Delta(DeltaSource(template(kind)), 7, "hi")
    assert delta.json() == json_codec.encode(delta.message())
    assert delta.wire() == delta.message().SerializeToString(deterministic=True)


def test_a_delta_and_its_message_are_the_same_event() -> None:
    delta = Delta(DeltaSource(template("output_text_delta")), 3, "hi")
    message = to_message(delta)
    assert (message.sequence_number, message.output_text_delta.delta) == (3, "hi")
    assert to_message(message) is message
    assert to_json(delta) == to_json(message)
    assert to_wire(delta) == to_wire(message)


def test_a_source_leaves_its_template_alone() -> None:
    event = template("refusal_delta")
    Delta(DeltaSource(event), 3, "hi").json()
    assert event == template("refusal_delta")
