from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backends import Prompt
from service.backends.window import Window, most_tokens
from service.conversation import Segment
from tests.service.backends.llama_cpp.conversing import (
    assistant,
    call,
    call_output,
    prompt,
    user,
)
from turnwire.v1 import items_pb2, responses_pb2

CONTEXT = 400


def conversation(*turns: Sequence[items_pb2.Item]) -> Prompt:
    *history, new = turns
    return prompt(*new, history=[Segment(None, turn) for turn in history])


def window(*turns: Sequence[items_pb2.Item], tokens: int = 100) -> Window:
    return Window(conversation(*turns), [tokens] * len(turns), CONTEXT)


def chat(number: int) -> list[items_pb2.Item]:
    return [user(f"question {number}"), assistant(f"answer {number}")]


def step(number: int) -> list[items_pb2.Item]:
    """Return a turn of an agent: the output of its last call, then the next call."""
    last, following = f"call_{number - 1}", f"call_{number}"
    return [call_output("out", call_id=last), call("look", "{}", call_id=following)]


@pytest.mark.rule("CR-22")
def test_the_oldest_goes_first_and_no_more_than_a_step_too_much() -> None:
    turns = [*map(chat, range(5)), [user("new")]]
    shortened = window(*turns)
    assert shortened.drop(1)
    assert shortened.turns == [[], *turns[1:]]
    assert shortened.touched == {0}


def test_the_beginning_stays_where_it_is_while_a_conversation_grows() -> None:
    beginnings = []
    for excess in (10, 40, 90, 110):
        shortened = window(*map(chat, range(5)), [user("new")])
        shortened.drop(excess)
        beginnings.append(len(shortened.touched))
    assert beginnings == [1, 1, 1, 2]


@pytest.mark.rule("CR-22")
def test_a_call_goes_with_its_output_and_the_question_stays() -> None:
    opened = [user("go"), call("look", "{}", call_id="call_0")]
    new = [call_output("out", call_id="call_3")]
    shortened = window(opened, step(1), step(2), step(3), new)
    assert shortened.drop(1)
    assert shortened.turns[0] == [user("go")]
    assert shortened.turns[1:] == [step(1)[1:], step(2), step(3), new]


def test_calls_of_types_that_nobody_has_defined_go_with_their_outputs_too() -> None:
    asked = items_pb2.Item(other_json='{"type":"new_call","call_id":"a"}')
    answer = items_pb2.Item(other_json='{"type":"new_call_output","call_id":"a"}')
    shortened = window([user("go"), asked], chat(1), [answer])
    assert shortened.drop(10_000)
    assert shortened.turns == [[asked], [chat(1)[0]], [answer]]


def test_what_is_to_be_answered_is_all_that_must_stay() -> None:
    pairs = [call("a", "{}", call_id="a"), call("b", "{}", call_id="b")]
    new = [call_output("1", call_id="a"), call_output("2", call_id="b")]
    shortened = window(chat(1), [user("go"), *pairs], new)
    assert shortened.drop(10_000)
    assert shortened.turns == [[], [user("go"), *pairs], new]
    assert not shortened.drop(1)


def test_an_answer_has_room_as_far_as_it_asked_for_it() -> None:
    assert most_tokens(responses_pb2.Settings(), 1000) == 750
    assert most_tokens(responses_pb2.Settings(max_output_tokens=10), 1000) == 990
    assert most_tokens(responses_pb2.Settings(max_output_tokens=9999), 1000) == 750


kinds = st.sampled_from(["chat", "step"])


@given(st.lists(st.lists(kinds, min_size=1, max_size=3), min_size=1, max_size=6), st.data())
def test_no_output_is_left_without_its_call(shapes: list[list[str]], data: st.DataObject) -> None:
    turns, number, opened = [], 0, False
    for shape in shapes:
        turn: list[items_pb2.Item] = []
        for kind in shape:
            turn += [call_output("out", call_id=f"call_{number}")] if opened else []
            number += 1
            opened = kind == "step"
            turn += [call("f", "{}", call_id=f"call_{number}")] if opened else chat(number)
        turns.append(turn)
    shortened = window(*turns)
    while shortened.drop(data.draw(st.integers(1, 200))):
        left = [item for turn in shortened.turns for item in turn]
        made = {item.function_call.call_id for item in left if item.HasField("function_call")}
        answered = {
            item.function_call_output.call_id
            for item in left
            if item.HasField("function_call_output")
        }
        assert answered <= made
        assert len(made - answered) <= opened
