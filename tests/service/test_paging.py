"""Pages of lists, and the ids that make items of all kinds fit for a list."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Refusal
from service.paging import (
    Page,
    identified,
    item_id_of,
    list_of,
    page_of,
    shown,
    with_id,
)
from turnwire import json_codec
from turnwire.v1 import items_pb2

KINDS = {
    "msg": items_pb2.Item(message=items_pb2.Message(role="user", content_text="hello")),
    "fc": items_pb2.Item(function_call=items_pb2.FunctionCall(call_id="c", name="f")),
    "fco": items_pb2.Item(function_call_output=items_pb2.FunctionCallOutput(call_id="c")),
    "ctc": items_pb2.Item(custom_tool_call=items_pb2.CustomToolCall(call_id="c", name="f")),
    "ctco": items_pb2.Item(custom_tool_call_output=items_pb2.CustomToolCallOutput(call_id="c")),
    "rs": items_pb2.Item(reasoning=items_pb2.Reasoning(encrypted_content="x")),
    "cmp": items_pb2.Item(compaction=items_pb2.Compaction(encrypted_content="x")),
    "at": items_pb2.Item(additional_tools=items_pb2.AdditionalTools(role="developer")),
    "item": items_pb2.Item(
        other_json='{"type":"web_search_call","cost":1.50,"status":"completed"}'
    ),
}


def said(text: str, item_id: str | None = None, role: str = "user") -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(id=item_id, role=role, content_text=text))


def numbered(count: int) -> list[items_pb2.Item]:
    return [said(str(number), f"msg_{number}") for number in range(count)]


def names(items: items_pb2.ItemList) -> list[str]:
    return [item_id_of(item) for item in items.items]


def draw(prefix: str, index: int) -> str:
    return f"{prefix}_drawn{index}"


# Pages


def test_the_newest_items_come_first_and_twenty_of_them() -> None:
    listed = page_of(numbered(25), Page())
    assert names(listed) == [f"msg_{number}" for number in range(24, 4, -1)]
    assert (listed.object, listed.first_id, listed.last_id) == ("list", "msg_24", "msg_5")
    assert listed.has_more


def test_a_page_that_reaches_the_end_says_that_there_are_no_more() -> None:
    listed = page_of(numbered(3), Page(limit=3, order="asc"))
    assert names(listed) == ["msg_0", "msg_1", "msg_2"]
    assert not listed.has_more


def test_an_empty_list_has_no_first_and_no_last_item() -> None:
    assert json.loads(json_codec.encode(page_of([], Page()))) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


@given(
    count=st.integers(0, 30),
    limit=st.integers(1, 100),
    order=st.sampled_from(["asc", "desc", ""]),
)
def test_page_after_page_gives_the_list_without_gap_or_repeat(
    count: int, limit: int, order: str
) -> None:
    items, seen, after = numbered(count), list[str](), ""
    for _ in itertools.repeat(None, count + 1):
        listed = page_of(items, Page(after, limit, order))
        assert len(listed.items) <= limit
        seen += names(listed)
        if not listed.has_more:
            break
        after = listed.last_id
    every = [item_id_of(item) for item in items]
    assert seen == (every if order == "asc" else every[::-1])


@pytest.mark.parametrize(
    ("page", "param"),
    [
        (Page(limit=-1), "limit"),
        (Page(limit=101), "limit"),
        (Page(order="up"), "order"),
        (Page(after="msg_9"), "after"),
    ],
)
def test_a_page_that_cannot_be_is_refused(page: Page, param: str) -> None:
    with pytest.raises(Refusal) as refused:
        page_of(numbered(3), page)
    assert (refused.value.status, refused.value.code) == (400, "invalid_value")
    assert refused.value.param == param


# Ids


@pytest.mark.parametrize("kind", KINDS)
def test_an_item_of_every_kind_can_be_given_an_id_and_keeps_the_rest(kind: str) -> None:
    item = KINDS[kind]
    before = item.SerializeToString()
    named = with_id(item, "x_1")
    assert (item_id_of(item), item_id_of(named)) == ("", "x_1")
    assert item.SerializeToString() == before
    members = json.loads(json_codec.encode(named))
    assert members.pop("id") == "x_1"
    assert members == json.loads(json_codec.encode(item))


def test_numbers_inside_unknown_items_stay_as_they_were_written() -> None:
    assert '"cost":1.50' in with_id(KINDS["item"], "x_1").other_json


@pytest.mark.parametrize("prefix", KINDS)
def test_the_kind_shows_in_a_drawn_id(prefix: str) -> None:
    (named,) = identified([KINDS[prefix]], draw)
    assert item_id_of(named) == f"{prefix}_drawn0"


def test_an_item_without_a_kind_gets_an_id_too() -> None:
    (named,) = identified([items_pb2.Item()], draw)
    assert item_id_of(named) == "item_drawn0"


def test_an_id_that_is_no_string_is_none() -> None:
    (named,) = identified([items_pb2.Item(other_json='{"type":"new","id":7}')], draw)
    assert json.loads(named.other_json) == {"type": "new", "id": "item_drawn0"}


def test_own_ids_are_kept_and_repeated_ones_are_replaced() -> None:
    items = [said("a", "mine"), said("b"), said("c", "mine"), said("d", "")]
    named = identified(items, draw)
    assert [item_id_of(item) for item in named] == [
        "mine",
        "msg_drawn1",
        "msg_drawn2",
        "msg_drawn3",
    ]
    assert named[0] is items[0]


def test_an_id_that_would_be_drawn_may_be_a_clients_own() -> None:
    named = identified([said("a", "msg_drawn1"), said("b")], draw)
    assert len({item_id_of(item) for item in named}) == 2


@given(st.lists(st.sampled_from(["", "a", "b", "msg_drawn1", "msg_drawn2", "msg_drawn1_"])))
def test_ids_differ_and_do_not_depend_on_what_follows(own: list[str]) -> None:
    items = [said("x", name) for name in own]
    every = [item_id_of(item) for item in identified(items, draw)]
    assert len(set(every)) == len(every)
    for count in range(len(items)):
        begun = identified(items[:count], draw)
        assert [item_id_of(item) for item in begun] == every[:count]


# What is shown


def test_text_that_was_sent_plainly_is_shown_as_a_part_with_a_status() -> None:
    (item,) = list_of([said("hello", "msg_1")]).items
    assert json.loads(json_codec.encode(item)) == {
        "type": "message",
        "id": "msg_1",
        "role": "user",
        "content": [{"type": "input_text", "text": "hello"}],
        "status": "completed",
    }


def test_what_an_assistant_said_is_shown_as_output() -> None:
    part = shown(said("hello", role="assistant")).message.content[0]
    assert part.output_text.text == "hello"


def test_a_status_of_its_own_is_kept() -> None:
    message = items_pb2.Message(role="assistant", status="incomplete")
    assert shown(items_pb2.Item(message=message)).message.status == "incomplete"


@pytest.mark.parametrize("kind", ["ctc", "rs", "cmp", "at", "item"])
def test_other_kinds_are_shown_as_they_are(kind: str) -> None:
    assert shown(KINDS[kind]) == KINDS[kind]
