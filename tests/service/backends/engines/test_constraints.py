import json
from typing import Any

import pytest

from service.backends.engines.constraints import constraint_of
from service.backends.tools import Toolbox, ToolChoice
from service.errors import ModelError
from service.parsing.syntax import Syntax
from service.rendering.chat_ml import SYNTAX
from tests.service.backends.llama_cpp.conversing import function
from turnwire.v1 import responses_pb2

THINKS = Syntax(thought_opens="<think>", thought_closes="</think>", calls=SYNTAX.calls)
FREE = ToolChoice({}, forced=False)
FORCED = ToolChoice(Toolbox([function("look"), function("hear")]).tools, forced=True)


def settings(**kind: Any) -> responses_pb2.Settings:
    text_format = responses_pb2.TextFormat(**kind)
    return responses_pb2.Settings(text=responses_pb2.TextSettings(format=text_format))


SCHEMA = settings(
    json_schema=responses_pb2.JsonSchemaFormat(name="a", schema_json='{"type": "string"}')
)
OBJECT = settings(json_object=responses_pb2.JsonObjectFormat())
PLAIN = responses_pb2.Settings()


def form(settings: responses_pb2.Settings, choice: ToolChoice, syntax: Syntax, opened: str) -> Any:
    bound = constraint_of(settings, choice, syntax, opened)
    assert bound is not None
    assert bound.kind == "structural_tag"
    tag = json.loads(bound.text)
    assert tag["type"] == "structural_tag"
    return tag["format"]


def test_free_text_is_not_bound() -> None:
    assert constraint_of(PLAIN, FREE, SYNTAX, "") is None


@pytest.mark.parametrize(("asked", "schema"), [(SCHEMA, "string"), (OBJECT, "object")])
def test_a_text_with_a_format_is_bound_to_json(asked: responses_pb2.Settings, schema: str) -> None:
    bound = constraint_of(asked, FREE, SYNTAX, "")
    assert bound is not None
    assert (bound.kind, json.loads(bound.text)) == ("json_schema", {"type": schema})


def test_a_thought_that_has_begun_may_end_before_the_json() -> None:
    thought, _, text = form(SCHEMA, FREE, THINKS, "assistant\n<think>\n")["elements"]
    assert thought == {
        "type": "tag",
        "begin": "",
        "content": {"type": "any_text"},
        "end": "</think>",
    }
    assert text == {"type": "json_schema", "json_schema": {"type": "string"}}


def test_a_call_is_bound_to_the_form_in_which_the_model_calls() -> None:
    calls = form(PLAIN, FORCED, SYNTAX, "")["elements"]
    assert [call["begin"] for call in calls] == [
        f'<tool_call>\n{{"name": "{name}", "arguments": ' for name in ("look", "hear")
    ]
    assert {call["end"] for call in calls} == {"}\n</tool_call>"}


def test_a_thought_that_has_begun_is_ended_for_a_call() -> None:
    calls = form(PLAIN, FORCED, THINKS, "assistant\n<think>\n")["elements"]
    assert all(call["begin"].lstrip().startswith("</think>") for call in calls)


@pytest.mark.parametrize(
    ("asked", "choice", "syntax"),
    [
        (PLAIN, FORCED, Syntax()),
        (settings(other_json='{"type": "secret"}'), FREE, SYNTAX),
    ],
)
def test_what_nothing_can_be_bound_to_is_refused(
    asked: responses_pb2.Settings, choice: ToolChoice, syntax: Syntax
) -> None:
    with pytest.raises(ModelError) as caught:
        constraint_of(asked, choice, syntax, "")
    assert caught.value.code == "invalid_prompt"
    assert "secret" not in caught.value.message
