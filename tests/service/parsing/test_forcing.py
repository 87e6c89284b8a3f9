import pytest

from service.backends import CallText, FunctionCallBegins, ItemEnds, ReasoningText
from service.errors import ModelError
from service.parsing.forcing import CallEnd, call_end, forced_call
from service.parsing.free import FreeReader
from service.parsing.harmony import HarmonyReader
from service.parsing.held import Held
from service.parsing.syntax import JsonCalls, Syntax
from tests.service.parsing.reading import (
    CODER,
    DEEPSEEK,
    GLM,
    LLAMA,
    MISTRAL,
    QWEN,
    SYNTAXES,
    TOOLS,
    read,
    wide,
)

CALLED = [FunctionCallBegins("look"), CallText('{"at": 1}'), ItemEnds()]
HARMONY = Syntax(form="harmony")


def written(syntax: Syntax, opened: str = "") -> str:
    form = forced_call(syntax, opened)
    return f'{form.opens}look{form.between}{{"at": 1}}{form.closes}'


@pytest.mark.parametrize("name", [n for n, s in SYNTAXES.items() if isinstance(s.calls, JsonCalls)])
def test_a_forced_call_is_read_as_that_call(name: str) -> None:
    syntax = SYNTAXES[name]
    assert read(FreeReader(TOOLS, Held(), syntax), written(syntax)) == CALLED


def test_a_forced_call_in_harmony_is_read_as_that_call() -> None:
    assert read(HarmonyReader(TOOLS, Held()), written(HARMONY)) == CALLED


def test_a_thought_that_the_prompt_began_ends_before_a_forced_call() -> None:
    said = written(QWEN, "<think>\n")
    assert read(FreeReader(TOOLS, Held(), QWEN, "<think>\n"), said) == CALLED
    assert read(FreeReader(TOOLS, Held(), QWEN, "<think>\n"), "Hm." + said) == [
        ReasoningText("Hm."),
        *CALLED,
    ]


@pytest.mark.parametrize("syntax", [CODER, GLM, Syntax()])
def test_what_cannot_be_forced_is_refused(syntax: Syntax) -> None:
    with pytest.raises(ModelError, match="tool_choice"):
        forced_call(syntax)


def test_one_call_ends_where_its_form_says_so() -> None:
    assert call_end(QWEN) == CallEnd("</tool_call>", "")
    assert call_end(CODER) == CallEnd("</function>", "\n</tool_call>")
    assert call_end(DEEPSEEK) == CallEnd(wide("<|tool▁call▁end|>"), wide("<|tool▁calls▁end|>"))
    assert call_end(HARMONY) == CallEnd("<|call|>", "")
    assert call_end(MISTRAL) is None
    assert call_end(LLAMA) is None
    assert call_end(Syntax()) is None
