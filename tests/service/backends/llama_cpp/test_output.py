import json

import pytest

from service.backends import (
    CallText,
    CustomCallBegins,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    Text,
)
from service.backends.llama_cpp.output import (
    ArgumentsReader,
    FreeReader,
    InputReader,
    JsonReader,
    Reader,
)
from service.backends.tools import CallableTool
from service.errors import ModelError

TOOLS = {
    "look": CallableTool("function", "look", "", {}),
    "run": CallableTool("custom", "run", "", {}),
}
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "</b>"}}\n</tool_call>'
CALLED = [FunctionCallBegins("look"), CallText('{"at": "</b>"}'), ItemEnds()]


def read(reader: Reader, *pieces: str) -> list[Produced]:
    """Return what was produced, with text that stands together joined."""
    produced = [part for piece in pieces for part in reader.push(piece)] + reader.end()
    joined: list[Produced] = []
    for part in produced:
        if isinstance(part, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].text + part.text)
        else:
            joined.append(part)
    return joined


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Just text.\n", [Text("Just text.\n")]),
        (CALL, CALLED),
        ("\n" + CALL + "\n", CALLED),
        ("Let me see.\n\n" + CALL, [Text("Let me see."), *CALLED]),
        (CALL + "\n" + CALL, CALLED + CALLED),
        (CALL.removesuffix("</tool_call>"), CALLED),
        ("Write " + CALL, [Text("Write " + CALL)]),
        ("a\n<tool_cat>", [Text("a\n<tool_cat>")]),
        ("a\n<tool", [Text("a\n<tool")]),
        ("<tool_call>no JSON</tool_call>", [Text("<tool_call>no JSON</tool_call>")]),
        ("<tool_call>{", [Text("<tool_call>{")]),
        (CALL.replace("look", "leap"), [Text(CALL.replace("look", "leap"))]),
        (
            '<tool_call>{"name": "run", "arguments": {"input": "1\\n2"}}</tool_call>',
            [CustomCallBegins("run"), CallText("1\n2"), ItemEnds()],
        ),
    ],
)
def test_calls_are_told_from_text_however_it_is_cut(said: str, meant: list[Produced]) -> None:
    assert read(FreeReader(TOOLS), said) == meant
    assert read(FreeReader(TOOLS), *said) == meant
    for cut in range(len(said)):
        assert read(FreeReader(TOOLS), said[:cut], said[cut:]) == meant


def test_text_is_not_held_back_without_need() -> None:
    reader = FreeReader(TOOLS)
    assert reader.push("a < b") == [Text("a < b")]
    assert reader.push(" and\n<") == [Text(" and")]
    assert reader.push("c") == [Text("\n<c")]


@pytest.mark.parametrize("reader", [JsonReader, ArgumentsReader])
def test_a_schema_that_was_not_enforced_is_noticed(reader: type[JsonReader]) -> None:
    fresh = reader()
    assert fresh.push(" ")
    with pytest.raises(ModelError):
        fresh.push("Sure! Here")


@pytest.mark.parametrize("cut", range(1, 30))
def test_the_input_of_a_custom_tool_survives_being_cut_off(cut: int) -> None:
    whole = 'print("hi")\n# ü'
    arguments = json.dumps({"input": whole}, ensure_ascii=False)
    (text, _) = read(InputReader(), arguments[:cut])
    assert isinstance(text, CallText)
    assert whole.startswith(text.text)


def test_the_input_of_a_custom_tool_is_unescaped() -> None:
    assert read(InputReader(), '{"input": "a\\', 'n\\"b\\""}') == [CallText('a\n"b"'), ItemEnds()]
