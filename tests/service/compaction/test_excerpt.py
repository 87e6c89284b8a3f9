"""What is kept of a conversation makes sense by itself."""

import json
from collections.abc import Sequence

from service.compaction.excerpt import Excerpt, last_takeover
from turnwire.v1 import items_pb2


def said(role: str, text: str) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(role=role, content_text=text))


def call(call_id: str) -> items_pb2.Item:
    return items_pb2.Item(function_call=items_pb2.FunctionCall(call_id=call_id, name="f"))


def output(call_id: str) -> items_pb2.Item:
    return items_pb2.Item(
        function_call_output=items_pb2.FunctionCallOutput(call_id=call_id, output_text="done")
    )


def unknown(kind: str, call_id: str) -> items_pb2.Item:
    return items_pb2.Item(other_json=json.dumps({"type": kind, "call_id": call_id}))


TOOLS = items_pb2.Item(additional_tools=items_pb2.AdditionalTools(role="developer"))
REASONING = items_pb2.Item(reasoning=items_pb2.Reasoning(id="rs_1"))


def everything(item: items_pb2.Item) -> bool:
    del item
    return True


def nothing(item: items_pb2.Item) -> bool:
    return not everything(item)


def needed(
    *older: items_pb2.Item, recent: Sequence[items_pb2.Item] = ()
) -> Sequence[items_pb2.Item]:
    return Excerpt(older, recent).newest(nothing, 0)


def test_what_the_operator_said_and_tools_that_were_added_are_kept_whatever_they_weigh() -> None:
    rules, more = said("system", "rules" * 99), said("developer", "more")
    assert needed(rules, said("user", "hi"), TOOLS, said("assistant", "ho"), more) == [
        rules,
        TOOLS,
        more,
    ]


def test_calls_without_an_answer_are_kept() -> None:
    assert needed(call("a"), call("b"), output("a")) == [call("b")]


def test_calls_that_recent_items_answer_are_kept_even_if_they_were_answered_before() -> None:
    assert needed(call("a"), output("a"), recent=[output("a")]) == [call("a")]


def test_of_calls_that_share_an_id_the_last_is_kept() -> None:
    first = call("a")
    first.function_call.arguments = "{}"
    assert needed(first, output("a"), call("a")) == [call("a")]
    assert needed(first, output("a"), call("a"), output("a"), recent=[output("a")]) == [call("a")]


def test_calls_of_types_not_known_here_are_kept_alike() -> None:
    shell = unknown("shell_call", "a")
    done = unknown("shell_call_output", "a")
    assert needed(shell, unknown("shell_call", "b"), unknown("shell_call_output", "b")) == [shell]
    assert needed(shell, recent=[done]) == [shell]
    assert not needed(shell, done)


def test_what_is_no_json_is_tied_to_nothing() -> None:
    assert not needed(items_pb2.Item(other_json="{"), items_pb2.Item(other_json="[]"))


def test_the_newest_are_kept_as_far_as_they_fit() -> None:
    items = [said("user", str(number)) for number in range(9)]
    room = 3 * items[0].ByteSize()
    excerpt = Excerpt(items, [])
    assert excerpt.newest(everything, room) == items[-3:]
    assert excerpt.newest(everything, room - 1) == items[-2:]
    assert excerpt.newest(everything, 9999) == items
    assert not excerpt.newest(everything, 0)


def test_what_has_to_be_kept_takes_up_the_room() -> None:
    rules, hi = said("developer", "hi"), said("user", "hi")
    excerpt = Excerpt([rules, hi], [])
    assert excerpt.newest(everything, rules.ByteSize() + hi.ByteSize() - 1) == [rules]


def test_only_what_is_wanted_is_kept_and_nothing_older_than_what_does_not_fit() -> None:
    small, large = said("user", "hi"), said("user", "hi" * 99)
    items = [small, large, said("assistant", "ho" * 99), small]

    def by_user(item: items_pb2.Item) -> bool:
        return item.message.role == "user"

    assert Excerpt(items, []).newest(by_user, 3 * small.ByteSize()) == [small]
    assert Excerpt(items, []).newest(by_user, 9999) == [small, large, small]


def test_an_answer_is_not_kept_without_its_call() -> None:
    items = [call("a"), output("a"), said("assistant", "done")]
    room = sum(item.ByteSize() for item in items)
    excerpt = Excerpt(items, [])
    assert excerpt.newest(everything, room - 1) == items[2:]
    assert excerpt.newest(everything, room) == items


def test_the_client_takes_over_where_one_of_its_items_follows_one_of_the_models() -> None:
    hi, ho = said("user", "hi"), said("assistant", "ho")
    assert last_takeover([hi, ho, hi]) == 2
    assert last_takeover([hi, ho, hi, ho, hi, hi]) == 4
    assert last_takeover([hi, REASONING, call("a"), call("b"), output("a"), output("b")]) == 4
    assert last_takeover([hi, unknown("shell_call", "a"), unknown("shell_call_output", "a")]) == 2


def test_before_a_model_said_anything_nothing_is_taken_over() -> None:
    hi, ho = said("user", "hi"), said("assistant", "ho")
    assert last_takeover([]) == 0
    assert last_takeover([hi, hi]) == 0
    assert last_takeover([hi, ho]) == 0
    assert last_takeover([ho]) == 0
