from typing import Any

import orjson
import pytest

from service.backends import (
    CallText,
    CustomCallBegins,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    ReasoningSummaryText,
    ReasoningText,
    RefusalText,
    Text,
    WholeItem,
)
from service.backends.responses.fragments import Dialect, Told
from service.backends.responses.reader import Reader
from service.conversation import Segment
from tests.service.backends.llama_cpp.conversing import prompt, user

DIALECT = Dialect("http://upstream", "m")


def told() -> Told:
    return Told.of(prompt(user("hello")), DIALECT)


def event(kind: str, **members: Any) -> bytes:
    return orjson.dumps({"type": kind, **members})


def item(which: str, **members: Any) -> bytes:
    return event(f"response.output_item.{which}", output_index=0, item=members)


def completed(**members: Any) -> bytes:
    response = {"id": "resp_1", "status": "completed", **members}
    return event(f"response.{response['status']}", response=response)


def test_events_that_nobody_knows_are_passed_over() -> None:
    reader = Reader()
    events = [event("response.new.thing", x=[1]), event("keepalive"), b"[DONE]", b"no JSON"]
    assert reader.read(events) == []
    assert not reader.over


def test_what_was_not_streamed_is_told_whole_at_its_end() -> None:
    parts = [
        {"type": "output_text", "text": "some"},
        {"type": "refusal", "refusal": "no"},
    ]
    events = [
        item("done", type="message", role="assistant", content=parts),
        item("added", type="function_call", name="f", call_id="c1", arguments=""),
        item("done", type="function_call", name="f", call_id="c1", arguments="{}"),
        item("done", type="custom_tool_call", name="g", namespace="n", call_id="c2", input="x"),
        item(
            "done",
            type="reasoning",
            summary=[{"type": "summary_text", "text": t} for t in ("a", "b")],
            content=[{"type": "reasoning_text", "text": "c"}],
        ),
    ]
    expected: list[Produced] = [
        *(Text("some"), RefusalText("no"), ItemEnds()),
        *(FunctionCallBegins("f", None), CallText("{}"), ItemEnds()),
        *(CustomCallBegins("g", "n"), CallText("x"), ItemEnds()),
        *(ReasoningSummaryText("a\n\nb"), ReasoningText("c"), ItemEnds()),
    ]
    assert Reader().read(events) == expected


def test_what_was_streamed_is_not_told_again() -> None:
    events = [
        item("added", type="function_call", name="f", call_id="c1", arguments=""),
        event("response.function_call_arguments.delta", delta="{"),
        event("response.function_call_arguments.delta", delta="}"),
        event("response.function_call_arguments.done", arguments="{}"),
        item("done", type="function_call", name="f", call_id="c1", arguments="{}"),
    ]
    texts = [CallText("{"), CallText("}")]
    assert Reader().read(events) == [FunctionCallBegins("f", None), *texts, ItemEnds()]


def test_a_call_whose_name_comes_late_is_told_when_it_has_one() -> None:
    events = [
        item("added", type="function_call", call_id="c1", arguments=""),
        event("response.function_call_arguments.delta", delta="{}"),
        item("done", type="function_call", name="f", call_id="c1", arguments="{}"),
    ]
    assert Reader().read(events) == [FunctionCallBegins("f", None), CallText("{}"), ItemEnds()]


def test_the_parts_of_a_summary_are_paragraphs() -> None:
    events = [
        event("response.reasoning_summary_part.added", summary_index=0),
        event("response.reasoning_summary_text.delta", delta="one"),
        event("response.reasoning_summary_part.added", summary_index=1),
        event("response.reasoning_summary_text.delta", delta="two"),
    ]
    said = Reader().read(events)
    assert "".join(p.text for p in said if isinstance(p, ReasoningSummaryText)) == "one\n\ntwo"


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"reason": "max_output_tokens"}, "length"),
        ({"reason": "content_filter"}, "content_filter"),
        (None, "length"),
    ],
)
def test_an_incomplete_response_says_why(details: dict[str, str] | None, reason: str) -> None:
    reader = Reader()
    reader.read([completed(status="incomplete", incomplete_details=details)])
    assert reader.over
    assert reader.finished(told(), None).reason == reason


def test_usage_is_counted_and_may_be_missing() -> None:
    usage = {
        "input_tokens": 9,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 2},
    }
    for given, counts in [(usage, (9, 4, 3, 2)), (None, (0, 0, 0, 0))]:
        reader = Reader()
        reader.read([completed(usage=given)])
        done = reader.finished(told(), None)
        counted = done.input_tokens, done.cached_tokens, done.output_tokens, done.reasoning_tokens
        assert counted == counts


def test_what_only_the_upstream_can_read_goes_back_to_it_as_it_came() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "sealed"}
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    reader = Reader()
    told_of = reader.read([item("done", **thought), item("done", **search)])
    assert told_of[0] == ItemEnds()
    assert isinstance(told_of[1], WholeItem)
    assert orjson.loads(told_of[1].item.other_json) == search
    reader.read([completed()])
    segment = Segment(None, [user("hello")], reader.finished(told(), "resp_1").rendered)
    later = Told.of(prompt(user("more"), history=[segment]), DIALECT)
    assert later.continued == "resp_1"
    assert orjson.loads(b"[" + b",".join(later.whole()) + b"]") == [
        {"type": "message", "role": "user", "content": "hello"},
        thought,
        search,
        {"type": "message", "role": "user", "content": "more"},
    ]


@pytest.mark.parametrize(
    "events",
    [
        [b"{"],
        [b"[]"],
        [b'{"no":"type"}'],
        [event("response.output_text.delta", delta=7)],
        [event("response.output_item.done", item=None)],
        [item("done", type="message", content=[{"type": "output_text"}])],
        [event("response.completed")],
        [event("error", error="words")],
        [event("error", status="many")],
    ],
)
def test_nonsense_ends_the_turn_in_our_words(events: list[bytes]) -> None:
    reader = Reader()
    assert reader.read(events) == []
    assert reader.failed
    assert reader.failed.code == "server_error"


def test_what_came_before_a_failure_is_still_told() -> None:
    reader = Reader()
    failed = event("response.failed", response={"error": {"code": "server_error"}})
    assert reader.read([event("response.output_text.delta", delta="a"), failed]) == [Text("a")]
    assert reader.failed


@pytest.mark.parametrize("usage", [[7], "many", {"input_tokens": "7"}, {"input_tokens": -7}])
@pytest.mark.parametrize("details", [None, [7], "max_output_tokens"])
def test_a_sum_that_makes_no_sense_is_none(usage: object, details: object) -> None:
    reader = Reader()
    ended = {"status": "incomplete", "usage": usage, "incomplete_details": details}
    assert reader.read([completed(**ended)]) == []
    finished = reader.finished(told(), None)
    assert (finished.reason, finished.input_tokens, finished.output_tokens) == ("length", 0, 0)
