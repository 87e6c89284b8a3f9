import json

import pytest

from service.backends import (
    CallText,
    CustomCallBegins,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    ScoredText,
    Text,
)
from service.backends.llama_cpp.held import Held, ScoredHeld
from service.backends.llama_cpp.output import (
    ArgumentsReader,
    FreeReader,
    InputReader,
    JsonReader,
    Reader,
    TextReader,
)
from service.backends.tools import Toolbox
from service.errors import ModelError
from tests.service.backends.llama_cpp.conversing import custom, function, namespace
from turnwire.v1 import items_pb2

TOOLS = Toolbox([function("look"), custom("run"), namespace("crm", function("find"))]).tools
CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "</b>"}}\n</tool_call>'
CALLED = [FunctionCallBegins("look"), CallText('{"at": "</b>"}'), ItemEnds()]


def free_reader() -> FreeReader:
    return FreeReader(TOOLS, Held())


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
        ("a\n<tool_call>no</tool_call>", [Text("a\n<tool_call>no</tool_call>")]),
        (
            '<tool_call>{"name": "crm__find", "arguments": {}}',
            [FunctionCallBegins("find", "crm"), CallText("{}"), ItemEnds()],
        ),
        (
            '<tool_call>{"name": "run", "arguments": {"input": "1\\n2"}}</tool_call>',
            [CustomCallBegins("run"), CallText("1\n2"), ItemEnds()],
        ),
    ],
)
def test_calls_are_told_from_text_however_it_is_cut(said: str, meant: list[Produced]) -> None:
    assert read(free_reader(), said) == meant
    assert read(free_reader(), *said) == meant
    for cut in range(len(said)):
        assert read(free_reader(), said[:cut], said[cut:]) == meant


def test_text_is_not_held_back_without_need() -> None:
    reader = free_reader()
    assert reader.push("a < b") == [Text("a < b")]
    assert reader.push(" and\n<") == [Text(" and")]
    assert reader.push("c") == [Text("\n<c")]


@pytest.mark.parametrize("reader", [JsonReader(TextReader()), ArgumentsReader()])
def test_a_schema_that_was_not_enforced_is_noticed(reader: Reader) -> None:
    assert reader.push(" ")
    with pytest.raises(ModelError):
        reader.push("Sure! Here")


def scores(*tokens: bytes) -> list[items_pb2.Logprob]:
    return [items_pb2.Logprob(bytes=token, logprob=-len(token)) for token in tokens]


def told(produced: list[Produced]) -> list[tuple[str, list[bytes]]]:
    """Return texts, each with the tokens that were scored with it."""
    texts = (part for part in produced if isinstance(part, ScoredText))
    return [(text.text, [bytes(score.bytes) for score in text.logprobs]) for text in texts]


def test_a_token_is_scored_with_the_text_that_it_begins_in() -> None:
    reader = FreeReader(TOOLS, ScoredHeld())
    assert told(reader.push("a.\n", scores(b"a", b".\n"))) == [("a.", [b"a", b".\n"])]
    assert told(reader.push("ü", scores(b"\xc3", b"\xbc"))) == [("\nü", [b"\xc3", b"\xbc"])]


def test_the_tokens_of_calls_are_not_scored() -> None:
    reader = FreeReader(TOOLS, ScoredHeld())
    produced = reader.push("Go.\n", scores(b"Go", b".", b"\n"))
    produced += reader.push(CALL + "\nno", scores(CALL.encode(), b"\n", b"no"))
    assert told(produced) == [("Go.", [b"Go", b"."]), ("\nno", [b"\n", b"no"])]
    assert [part for part in produced if not isinstance(part, ScoredText)] == CALLED


def test_what_only_looked_like_a_call_is_scored_in_the_end() -> None:
    reader = FreeReader(TOOLS, ScoredHeld())
    assert told(reader.push("a\n<tool_call>", scores(b"a", b"\n<tool_", b"call>"))) == [
        ("a", [b"a"])
    ]
    assert told(reader.end()) == [("\n<tool_call>", [b"\n<tool_", b"call>"])]


@pytest.mark.parametrize("cut", range(1, 30))
def test_the_input_of_a_custom_tool_survives_being_cut_off(cut: int) -> None:
    whole = 'print("hi")\n# ü'
    arguments = json.dumps({"input": whole}, ensure_ascii=False)
    (text, _) = read(InputReader(), arguments[:cut])
    assert isinstance(text, CallText)
    assert whole.startswith(text.text)


def test_the_input_of_a_custom_tool_is_unescaped() -> None:
    assert read(InputReader(), '{"input": "a\\', 'n\\"b\\""}') == [CallText('a\n"b"'), ItemEnds()]
