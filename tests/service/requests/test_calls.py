"""What is a call, what is an output, and what the two are tied by."""

import json

import pytest

from service.requests.calls import Tie, is_declared, is_models, tie
from turnwire.v1 import items_pb2
from turnwire.v1.items_pb2 import Item


def unknown(kind: str, **members: object) -> Item:
    return Item(other_json=json.dumps({"type": kind, **members}))


def said(role: str) -> Item:
    return Item(message=items_pb2.Message(role=role, content_text="call_id"))


CALL = Item(function_call=items_pb2.FunctionCall(call_id="c"))
OUTPUT = Item(function_call_output=items_pb2.FunctionCallOutput(call_id="c"))
CUSTOM = Item(custom_tool_call=items_pb2.CustomToolCall(call_id="c"))
CUSTOM_OUTPUT = Item(custom_tool_call_output=items_pb2.CustomToolCallOutput(call_id="c"))


@pytest.mark.parametrize("item", [CALL, CUSTOM, unknown("local_shell_call", call_id="c")])
def test_a_call_is_tied_to_its_output(item: Item) -> None:
    assert tie(item) == Tie("c", answers=False)
    assert is_models(item)


@pytest.mark.parametrize(
    "item", [OUTPUT, CUSTOM_OUTPUT, unknown("local_shell_call_output", call_id="c")]
)
def test_an_output_is_tied_to_its_call(item: Item) -> None:
    assert tie(item) == Tie("c", answers=True)
    assert not is_models(item)


@pytest.mark.parametrize(
    "item",
    [
        said("user"),
        Item(),
        unknown("web_search_call"),
        unknown("new_call", call_id=7),
        unknown("note", call_id="c"),
        Item(other_json='{"call_id":"c"}'),
        Item(other_json='["call_id"]'),
        Item(other_json='"call_id" is not JSON'),
    ],
)
def test_anything_else_is_tied_to_nothing(item: Item) -> None:
    assert tie(item) is None


def test_models_make_reasoning_answers_and_the_calls_of_hosted_tools() -> None:
    reasoning = Item(reasoning=items_pb2.Reasoning())
    assert all(map(is_models, [reasoning, said("assistant"), unknown("web_search_call")]))
    assert not any(map(is_models, [Item(), said("user"), said("developer"), unknown("note")]))


def test_only_types_of_the_contract_are_declared() -> None:
    assert is_declared(OUTPUT)
    assert not is_declared(unknown("local_shell_call_output", call_id="c"))
