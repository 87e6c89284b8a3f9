import pytest

from service.backends import (
    FunctionCallBegins,
    ItemEnds,
    Prompt,
    ReasoningText,
    ScoredText,
    Text,
)
from service.backends.tools import ToolChoice
from service.errors import ModelError
from service.parsing.answers import reader_of
from service.parsing.syntax import Syntax
from tests.service.parsing.reading import LLAMA, QWEN, TOOLS, read
from turnwire.v1 import responses_pb2

CALL = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>'
FREE = ToolChoice(TOOLS, forced=False)
NONE = ToolChoice({}, forced=False)
HARMONY = Syntax(form="harmony")


def prompt(*, logprobs: bool = False, json: bool = False) -> Prompt:
    settings = responses_pb2.Settings()
    if json:
        settings.text.format.json_object.SetInParent()
    return Prompt(
        history=[],
        input=[],
        legible=lambda items: items,
        model="m",
        settings=settings,
        tools=[],
        logprobs=logprobs,
        extra_json="",
        conversation="c",
        tenant="t",
    )


def test_calls_are_read_where_tools_may_be_called() -> None:
    assert FunctionCallBegins("look") in read(reader_of(QWEN, FREE, prompt()), CALL)
    assert read(reader_of(QWEN, NONE, prompt()), CALL) == [Text(CALL)]
    assert read(reader_of(Syntax(), FREE, prompt()), CALL) == [Text(CALL)]


def test_thoughts_are_read_whatever_may_be_called() -> None:
    for choice in (FREE, NONE):
        read_said = read(reader_of(QWEN, choice, prompt(), "<think>\n"), "Hm.</think>Hi.")
        assert read_said == [ReasoningText("Hm."), Text("Hi.")]


def test_harmony_is_read_as_harmony() -> None:
    said = "<|channel|>final<|message|>Hi.<|return|>"
    opened = "<|start|>assistant"
    assert read(reader_of(HARMONY, NONE, prompt(), opened), said) == [Text("Hi."), ItemEnds()]


def test_text_that_was_to_be_json_is_checked_in_every_syntax() -> None:
    for syntax in (QWEN, LLAMA, Syntax()):
        assert read(reader_of(syntax, FREE, prompt(json=True)), "{}") == [Text("{}")]
        with pytest.raises(ModelError):
            read(reader_of(syntax, FREE, prompt(json=True)), "Sure.")
    with pytest.raises(ModelError):
        read(reader_of(HARMONY, FREE, prompt(json=True)), "<|channel|>final<|message|>Sure.")


def test_a_forced_call_comes_before_the_format_of_text() -> None:
    forced = ToolChoice(TOOLS, forced=True)
    produced = read(reader_of(QWEN, forced, prompt(json=True)), CALL)
    assert produced[0] == FunctionCallBegins("look")


@pytest.mark.parametrize("syntax", [QWEN, Syntax()])
def test_text_is_scored_where_that_is_wanted(syntax: Syntax) -> None:
    produced = read(reader_of(syntax, NONE, prompt(logprobs=True)), ["Hi."])
    assert produced == [ScoredText("Hi.", [])] or produced == [ScoredText("Hi.", ())]
