from typing import Any

import orjson
import pytest

from service.backends.responses.fragments import Dialect, Made, Told
from service.conversation import Rendered, Segment
from service.errors import ModelError
from service.sealing import MARK
from tests.service.backends.llama_cpp.conversing import (
    assistant,
    call,
    call_output,
    function,
    prompt,
    user,
)
from turnwire import json_codec
from turnwire.v1 import items_pb2

DIALECT = Dialect("http://upstream", "m")
OTHER = Dialect("http://upstream", "n")


def items_of(told: Told) -> list[dict[str, Any]]:
    parsed: list[dict[str, Any]] = orjson.loads(b"[" + b",".join(told.whole()) + b"]")
    return parsed


def item(**members: Any) -> items_pb2.Item:
    return json_codec.decode(items_pb2.Item, orjson.dumps(members))


@pytest.mark.parametrize(
    "said",
    [
        {"type": "message", "id": "msg_1", "role": "critic", "content": "hi", "mood": "new"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{", "namespace": "n"},
        {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "x"}]},
        {"type": "unheard_of", "deep": {"er": [1, 2.50, None]}},
        {"type": "reasoning", "summary": [], "encrypted_content": "theirs"},
    ],
)
def test_items_go_up_as_the_client_said_them(said: dict[str, Any]) -> None:
    assert items_of(Told.of(prompt(item(**said)), DIALECT)) == [said]


def test_what_was_sealed_here_goes_up_opened() -> None:
    thought = items_pb2.Reasoning(
        content=[items_pb2.ContentPart(reasoning_text=items_pb2.Text(text="hm"))],
        encrypted_content=f"{MARK}sealed",
    )
    (told,) = items_of(Told.of(prompt(items_pb2.Item(reasoning=thought)), DIALECT))
    assert "encrypted_content" not in told
    assert told["content"] == [{"type": "reasoning_text", "text": "hm"}]


def test_tools_and_thoughts_without_content_are_left_out() -> None:
    tools = items_pb2.Item(additional_tools=items_pb2.AdditionalTools(tools=[function("f")]))
    summary = items_pb2.ContentPart(summary_text=items_pb2.Text(text="hm"))
    thought = items_pb2.Item(reasoning=items_pb2.Reasoning(summary=[summary]))
    assert items_of(Told.of(prompt(tools, user("hi"), thought), DIALECT)) == [
        {"type": "message", "role": "user", "content": "hi"}
    ]


def test_a_reference_is_not_for_an_upstream() -> None:
    reference = items_pb2.Item(item_reference=items_pb2.ItemReference(id="msg_1"))
    with pytest.raises(ModelError, match="item_reference"):
        Told.of(prompt(reference), DIALECT)


def made_by(upstream: str | None, *calls: str, output: str = "") -> dict[str, Rendered]:
    return dict(DIALECT.renderings(output.encode(), Made(upstream, calls)))


def test_outputs_of_several_turns_find_their_calls() -> None:
    one = Segment(
        None,
        [user("?"), call("f", "{}", call_id="our1"), call("g", "{}", call_id="our2")],
        made_by("r1", "their1", "their2"),
    )
    two = Segment(one, [call_output("x", "our2"), call("h", "{}", call_id="our3")])
    two.rendered.update(made_by("r2", "their3"))
    new = [call_output("y", "our3"), call_output("z", "our1"), call_output("w", "own")]
    told = Told.of(prompt(*new, history=[one, two]), DIALECT)
    answered = [item["call_id"] for item in orjson.loads(b"[" + told.new + b"]")]
    assert answered == ["their3", "their1", "own"]


def test_a_turn_of_another_upstream_is_told_in_our_words() -> None:
    items = [user("?"), call("f", "{}", call_id="ours")]
    segment = Segment(None, items, made_by("r1", "theirs", output='{"type":"sealed"}'))
    told = Told.of(prompt(call_output("y", "ours"), history=[segment]), OTHER)
    assert told.continued is None
    assert [item.get("call_id") for item in items_of(told)] == [None, "ours", "ours"]


def test_history_that_was_never_rendered_is_rendered_once() -> None:
    segment = Segment(None, [user("one"), assistant("two")])
    seen: list[int] = []

    def legible(items: Any) -> Any:
        seen.append(len(items))
        return items

    told = Told.of(prompt(user("three"), history=[segment], legible=legible), DIALECT)
    assert items_of(told) == items_of(told)
    assert seen == [2]


def test_an_empty_turn_leaves_no_gap() -> None:
    told = Told.of(prompt(), DIALECT)
    assert told.new == b""
    assert told.rendered
