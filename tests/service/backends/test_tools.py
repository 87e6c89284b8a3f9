import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backends.tools import Toolbox, joined_name, one_call_only, tool_choice
from service.errors import ModelError
from tests.service.backends.llama_cpp.conversing import custom, function, namespace
from turnwire.v1 import items_pb2, responses_pb2

BOX = Toolbox(
    [
        function("add"),
        custom("run"),
        namespace("crm", function("find"), function("add")),
        namespace("shop", function("find")),
    ]
)


def chosen(choice: responses_pb2.ToolChoice) -> list[str]:
    return [*tool_choice(responses_pb2.Settings(tool_choice=choice), BOX).tools]


def named(name: str, **fields: str) -> responses_pb2.NamedTool:
    return responses_pb2.NamedTool(name=name, **fields)


def allowed(mode: str, *tools: object) -> responses_pb2.Settings:
    choice = responses_pb2.AllowedTools(mode=mode, tools_json=map(json.dumps, tools))
    return responses_pb2.Settings(tool_choice=responses_pb2.ToolChoice(allowed_tools=choice))


def test_a_namespace_and_a_name_are_joined_once() -> None:
    assert [*BOX.tools] == ["add", "run", "crm__find", "crm__add", "shop__find"]
    assert joined_name("mcp__git__", "log") == "mcp__git__log"


@given(st.text(max_size=80), st.text(max_size=80))
def test_every_name_is_one_that_model_servers_accept(group: str, name: str) -> None:
    assert re.fullmatch("[a-zA-Z0-9_-]{1,64}", joined_name(group, name))
    assert joined_name(group, name) == joined_name(group, name)


def test_names_that_had_to_be_changed_are_told_apart() -> None:
    names = ["x" * 70, "x" * 71, "a.b", "a:b", "a_b"]
    assert len({joined_name(None, name) for name in names}) == len(names)


def test_tools_whose_joined_names_collide_are_told_apart() -> None:
    box = Toolbox([function("a__b"), namespace("a", function("b"))])
    assert [(tool.namespace, tool.name) for tool in box.tools.values()] == [
        (None, "a__b"),
        ("a", "b"),
    ]
    assert box.tools[box.joined("a", "b")].namespace == "a"
    assert box.tools[box.joined("", "a__b")].namespace is None


def test_a_later_tool_replaces_an_earlier_one_of_the_same_name() -> None:
    box = Toolbox([function("f", old={}), function("g"), function("f", new={})])
    assert [*box.tools] == ["f", "g"]
    assert box.tools["f"].parameters["required"] == ["new"]


def test_what_a_namespace_is_for_is_told_with_its_tools() -> None:
    tool = custom("note", description="Takes a note.")
    [note] = Toolbox([namespace("crm", tool, description="All customers.")]).tools.values()
    told = json.loads(note.signature)["function"]
    assert told["name"] == "crm__note"
    assert told["description"] == "All customers.\n\nTakes a note."


def test_tools_of_other_types_are_left_out() -> None:
    hosted = items_pb2.Tool(other_json='{"type": "web_search"}')
    assert [*Toolbox([hosted, namespace("n", hosted), function("f")]).tools] == ["f"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (named("add"), ["add"]),
        (named("add", namespace="crm"), ["crm__add"]),
        (named("crm__find"), ["crm__find"]),
        (named("find"), ["crm__find", "shop__find"]),
        (named("find", namespace="shop"), ["shop__find"]),
        (named("run"), ["run"]),
    ],
)
def test_a_tool_is_named_by_its_own_or_its_joined_name(
    wanted: responses_pb2.NamedTool, found: list[str]
) -> None:
    assert chosen(responses_pb2.ToolChoice(function=wanted)) == found
    assert chosen(responses_pb2.ToolChoice(custom=wanted)) == found


@pytest.mark.parametrize("wanted", [named("fly"), named("add", namespace="shop")])
def test_a_name_that_no_tool_has_is_refused(wanted: responses_pb2.NamedTool) -> None:
    with pytest.raises(ModelError) as caught:
        chosen(responses_pb2.ToolChoice(function=wanted))
    assert caught.value.code == "invalid_prompt"


def test_allowed_tools_are_named_alike_and_hosted_ones_are_left_out() -> None:
    settings = allowed(
        "required",
        {"type": "mcp", "server_label": "x", "name": "add"},
        {"type": "function", "name": "find", "namespace": "shop"},
        {"type": "namespace", "name": "crm"},
        {"type": "custom", "name": "run"},
    )
    choice = tool_choice(settings, BOX)
    assert choice.forced
    assert [*choice.tools] == ["shop__find", "crm__find", "crm__add", "run"]


def test_a_choice_among_hosted_tools_alone_calls_none_or_is_refused() -> None:
    hosted = {"type": "web_search"}
    assert tool_choice(allowed("auto", hosted), BOX).tools == {}
    with pytest.raises(ModelError):
        tool_choice(allowed("required", hosted), BOX)


@pytest.mark.parametrize("kind", ["web_search", "mcp", "shell", "apply_patch"])
def test_a_hosted_choice_is_refused_by_its_type(kind: str) -> None:
    choice = responses_pb2.ToolChoice(other_json=json.dumps({"type": kind}))
    with pytest.raises(ModelError, match=f"'{kind}'") as caught:
        tool_choice(responses_pb2.Settings(tool_choice=choice), BOX)
    assert caught.value.code == "invalid_prompt"


def test_calls_are_parallel_unless_that_is_refused() -> None:
    assert not one_call_only(responses_pb2.Settings())
    assert not one_call_only(responses_pb2.Settings(parallel_tool_calls=True))
    assert one_call_only(responses_pb2.Settings(parallel_tool_calls=False))
