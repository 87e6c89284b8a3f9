import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backends import (
    CallText,
    CustomCallBegins,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    ReasoningText,
    ScoredText,
    Text,
)
from service.errors import ModelError
from service.parsing import Scores
from service.parsing.free import FreeReader, thinking
from service.parsing.held import Held, ScoredHeld
from service.parsing.syntax import Syntax
from tests.service.parsing.reading import (
    CODER,
    DEEPSEEK,
    LLAMA,
    QWEN,
    SYNTAXES,
    TOOLS,
    joined,
    read,
    read_cut,
    wide,
)
from turnwire.v1 import items_pb2

CALL = '<tool_call>\n{"name": "look", "arguments": {"at": "</b>"}}\n</tool_call>'
CALLED = [FunctionCallBegins("look"), CallText('{"at": "</b>"}'), ItemEnds()]


def free_reader(syntax: Syntax = QWEN, opened: str = "") -> FreeReader:
    return FreeReader(TOOLS, Held(), syntax, opened)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Just text.\n", [Text("Just text.\n")]),
        (CALL, CALLED),
        ("\n" + CALL + "\n", CALLED),
        ("Let me see.\n\n" + CALL, [Text("Let me see."), *CALLED]),
        (CALL + "\n" + CALL, CALLED + CALLED),
        (CALL + "\nSo.", [*CALLED, Text("\nSo.")]),
        (CALL.removesuffix("</tool_call>"), CALLED),
        (CALL.removesuffix("}\n</tool_call>"), CALLED),
        (CALL.removesuffix("call>"), CALLED),
        ("Write " + CALL, [Text("Write " + CALL)]),
        ("a\n<tool_cat>", [Text("a\n<tool_cat>")]),
        ("a\n<tool", [Text("a\n<tool")]),
        ("<tool_call>no JSON</tool_call>", [Text("<tool_call>no JSON</tool_call>")]),
        ("<tool_call>{", [Text("<tool_call>{")]),
        ('<tool_call>{"name": "look"', [Text('<tool_call>{"name": "look"')]),
        (CALL.replace("look", "leap"), [Text(CALL.replace("look", "leap"))]),
        ("a\n<tool_call>no</tool_call>", [Text("a\n<tool_call>no</tool_call>")]),
        ("<tool_call>\n" + CALL, [Text("<tool_call>"), *CALLED]),
        (
            '<tool_call>{"name": "crm__find", "arguments": {}}',
            [FunctionCallBegins("find", "crm"), CallText("{}"), ItemEnds()],
        ),
        (
            '<tool_call>{"name": "run", "arguments": {"input": "1\\n2"}}</tool_call>',
            [CustomCallBegins("run"), CallText("1\n2"), ItemEnds()],
        ),
        (
            '<tool_call> {  "arguments":{"at":  "b"},\n"name":"look" }\n</tool_call>',
            [FunctionCallBegins("look"), CallText('{"at": "b"}'), ItemEnds()],
        ),
        (
            '<tool_call>{"name":"look","arguments":{"at":"\\"}{"},"id":"7"}</tool_call>.',
            [FunctionCallBegins("look"), CallText('{"at":"\\"}{"}'), ItemEnds(), Text(".")],
        ),
        (
            '<tool_call>{"arguments": {"input": "1"}, "name": "run"}',
            [CustomCallBegins("run"), CallText("1"), ItemEnds()],
        ),
    ],
)
def test_calls_are_told_from_text_however_it_is_cut(said: str, meant: list[Produced]) -> None:
    assert read(free_reader(), [said]) == meant
    assert read(free_reader(), said) == meant
    for cut in range(len(said)):
        assert read(free_reader(), [said[:cut], said[cut:]]) == meant


def test_text_is_not_held_back_without_need() -> None:
    reader = free_reader()
    assert reader.push("a < b") == [Text("a < b")]
    assert reader.push(" and\n<") == [Text(" and")]
    assert reader.push("c") == [Text("\n<c")]


def test_arguments_are_passed_on_as_they_are_written() -> None:
    reader = free_reader()
    assert reader.push('<tool_call>\n{"name": "look", "arguments": ') == []
    assert reader.push('{"at": "a') == [FunctionCallBegins("look"), CallText('{"at": "a')]
    assert reader.push('b"}') == [CallText('b"}')]
    assert reader.push("}\n</tool") == []
    assert reader.push("_call>") == [ItemEnds()]


def test_a_call_that_was_cut_off_is_not_whole() -> None:
    for length in range(len(CALL)):
        produced = read_cut(free_reader(), [CALL[:length]])
        whole = CALL[:length].count("}") > 0
        assert (ItemEnds() in produced) == whole
        begun = '"arguments": {' in CALL[:length]
        assert (FunctionCallBegins("look") in produced) == begun


def test_a_call_that_its_model_breaks_off_is_an_error() -> None:
    reader = free_reader()
    reader.push('<tool_call>{"name": "look", "arguments": {"at')
    with pytest.raises(ModelError):
        reader.end()


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("<think>\nHm.\n</think>\n\nHi.", [ReasoningText("Hm."), Text("Hi.")]),
        ("\n<think>Hm.</think>Hi.", [ReasoningText("Hm."), Text("Hi.")]),
        ("<think>\n\n</think>\n\nHi.", [Text("Hi.")]),
        ("<think>Hm.\n", [ReasoningText("Hm.")]),
        ("<think>Hm.</thi", [ReasoningText("Hm.</thi")]),
        ("<think>\nHm.\n</think>\n\n" + CALL, [ReasoningText("Hm."), *CALLED]),
        ("<think>\nHm.\n" + CALL, [ReasoningText("Hm."), *CALLED]),
        ("<think>Is it " + CALL, [ReasoningText("Is it " + CALL)]),
        ("<think>\n<tool_call>\nno</think>a", [ReasoningText("<tool_call>\nno"), Text("a")]),
        ("Use <think> and </think>.", [Text("Use <think> and </think>.")]),
    ],
)
def test_thoughts_are_told_from_text_however_it_is_cut(said: str, meant: list[Produced]) -> None:
    assert read(free_reader(), said) == meant
    for cut in range(len(said)):
        assert read(free_reader(), [said[:cut], said[cut:]]) == meant


def test_an_answer_may_begin_inside_a_thought() -> None:
    said = "Hm.\n</think>\n\nHi."
    for opened in ("<|im_start|>assistant\n<think>\n", "<think>"):
        assert read(free_reader(QWEN, opened), said) == [ReasoningText("Hm."), Text("Hi.")]
    assert read(free_reader(QWEN, "<think>\n\n</think>\n\n"), "Hi.") == [Text("Hi.")]
    assert read(free_reader(QWEN, "<think>"), "<think>Hm.") == [ReasoningText("Hm.")]
    assert not thinking(Syntax(), "<think>")


def deepseek_call(name: str, arguments: str) -> str:
    opens = wide("<|tool▁call▁begin|>function<|tool▁sep|>")
    closes = wide("\n```<|tool▁call▁end|>")
    return f"{opens}{name}\n```json\n{arguments}{closes}"


TWO_CALLS = {
    "qwen": '<tool_call>\n{"name": "look", "arguments": {"at": "b"}}\n</tool_call>\n'
    '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call>',
    "llama": '{"name": "look", "parameters": {"at": "b"}}; {"name": "look", "parameters": {}}',
    "mistral": '[TOOL_CALLS]look[ARGS]{"at": "b"}[TOOL_CALLS]look[ARGS]{}',
    "mistral_list": '[TOOL_CALLS] [{"name": "look", "arguments": {"at": "b"}, "id": "a1"}, '
    '{"name": "look", "arguments": {}, "id": "a2"}]',
    "deepseek": wide("<|tool▁calls▁begin|>")
    + deepseek_call("look", '{"at": "b"}')
    + "\n"
    + deepseek_call("look", "{}")
    + wide("<|tool▁calls▁end|>"),
    "kimi": "<|tool_calls_section_begin|><|tool_call_begin|>functions.look:0"
    '<|tool_call_argument_begin|>{"at": "b"}<|tool_call_end|><|tool_call_begin|>functions.look:1'
    "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    "coder": "<tool_call>\n<function=look>\n<parameter=at>\nb\n</parameter>\n</function>\n"
    "</tool_call>\n<tool_call>\n<function=look>\n</function>\n</tool_call>",
    "glm": "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>b</arg_value>\n</tool_call>\n"
    "<tool_call>look\n</tool_call>",
    "minimax": '<minimax:tool_call>\n<invoke name="look">\n<parameter name="at">b</parameter>\n'
    '</invoke>\n<invoke name="look">\n</invoke>\n</minimax:tool_call>',
}


TWO_CALLS["coder_otherwise_cut"] = TWO_CALLS["coder"]


@pytest.mark.parametrize("name", SYNTAXES)
def test_calls_are_read_in_every_form_however_it_is_cut(name: str) -> None:
    said = TWO_CALLS[name] + "\n"
    meant = [
        *(FunctionCallBegins("look"), CallText('{"at": "b"}'), ItemEnds()),
        *(FunctionCallBegins("look"), CallText("{}"), ItemEnds()),
    ]
    assert read(free_reader(SYNTAXES[name]), said) == meant
    for cut in range(len(said)):
        assert read(free_reader(SYNTAXES[name]), [said[:cut], said[cut:]]) == meant


@pytest.mark.parametrize("name", SYNTAXES)
def test_calls_of_unknown_tools_stay_text_in_every_form(name: str) -> None:
    said = TWO_CALLS[name].replace("look", "leap")
    assert read(free_reader(SYNTAXES[name]), said) == [Text(said)]


@pytest.mark.parametrize("name", SYNTAXES)
def test_a_cut_call_is_never_told_as_whole_in_any_form(name: str) -> None:
    said = TWO_CALLS[name]
    for length in range(len(said)):
        produced = read_cut(free_reader(SYNTAXES[name]), [said[:length]])
        whole = produced.count(ItemEnds())
        texts = [part.text for part in produced if isinstance(part, CallText)]
        assert texts[:whole] == ['{"at": "b"}', "{}"][:whole]


def test_a_bare_object_is_a_call_only_where_an_answer_begins() -> None:
    call = '{"name": "look", "parameters": {}}'
    assert read(free_reader(LLAMA), f"Write {call}") == [Text(f"Write {call}")]
    assert read(free_reader(LLAMA), f"Write\n{call}") == [Text(f"Write\n{call}")]
    assert joined(free_reader(LLAMA).push('{"heat":')) == [Text('{"heat":')]


@pytest.mark.parametrize(
    "called",
    [
        '{"type": "function", "function": {"name": "look", "parameters": {"at": "b"}}}',
        '{"type": "function", "name": "look", "parameters": {"at": "b"}}',
        '{"name": "look", "parameters": "{\\"at\\": \\"b\\"}"}',
    ],
)
def test_an_object_is_read_in_the_shapes_that_models_know(called: str) -> None:
    meant = [FunctionCallBegins("look"), CallText('{"at": "b"}'), ItemEnds()]
    assert read(free_reader(LLAMA), called) == meant


def test_a_mark_that_nobody_writes_begins_a_call_within_a_line() -> None:
    said = "Sure." + wide("<|tool▁calls▁begin|>") + deepseek_call("look", "{}")
    assert read(free_reader(DEEPSEEK), said)[:2] == [Text("Sure."), FunctionCallBegins("look")]


def coder_call(**values: str) -> str:
    written = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in values.items())
    return f"<tool_call>\n<function=look>\n{written}</function>\n</tool_call>"


def test_values_between_tags_have_the_types_of_the_schema() -> None:
    said = coder_call(
        at="5", far="True", near="null", count="7", parts='["a"]', other="[x", odd="1"
    )
    (_, text, _) = read(free_reader(CODER), said)
    assert text == CallText(
        '{"at": "5", "far": true, "near": null, "count": 7, "parts": ["a"], '
        '"other": "[x", "odd": 1}'
    )


def test_a_value_may_look_like_its_own_end() -> None:
    (_, text, _) = read(free_reader(CODER), coder_call(at="a\n</parameter>\nb"))
    assert text == CallText('{"at": "a\\n</parameter>\\nb"}')


def test_the_input_of_a_custom_tool_stands_between_tags_as_it_is() -> None:
    said = coder_call(input='{"a"\n}').replace("look", "run")
    assert read(free_reader(CODER), said) == [
        CustomCallBegins("run"),
        CallText('{"a"\n}'),
        ItemEnds(),
    ]


def test_a_value_that_is_not_closed_is_broken_off() -> None:
    reader = free_reader(CODER)
    reader.push("<tool_call>\n<function=look>\n<parameter=at>\nb")
    with pytest.raises(ModelError):
        reader.end()


def test_the_last_closing_marks_of_a_tagged_call_may_be_missing() -> None:
    said = coder_call(at="b").partition("</function>")[0]
    assert read(free_reader(CODER), said)[1:] == [CallText('{"at": "b"}'), ItemEnds()]


MARKS = [
    "<tool_call>",
    "</tool_call>",
    "<think>",
    "</think>",
    "\n",
    " ",
    '{"name": "',
    "look",
    "{",
    "}",
]
MARKS += ['", "arguments": ', "<function=", "<parameter=at>", "</parameter>", "</function>", ">"]
MARKS += ["[TOOL_CALLS]", "[ARGS]", wide("<|tool▁call▁begin|>"), "<arg_key>", "</arg_value>", "a"]
BEGINNINGS = st.builds(
    lambda said, length: said[:length], st.sampled_from([*TWO_CALLS.values()]), st.integers(1, 200)
)
ANSWERS = st.lists(st.sampled_from(MARKS) | BEGINNINGS | st.text(max_size=5), max_size=20).map(
    "".join
)


def outcome(syntax: Syntax, pieces: list[str]) -> list[Produced] | str:
    reader = free_reader(syntax)
    produced = [part for piece in pieces for part in reader.push(piece)]
    try:
        return joined([*produced, *reader.end()])
    except ModelError as error:
        return error.message


@given(st.sampled_from([*SYNTAXES]), ANSWERS, st.lists(st.integers(0, 200), max_size=8))
def test_how_an_answer_is_cut_into_pieces_changes_nothing(
    name: str, said: str, cuts: list[int]
) -> None:
    places = sorted({0, len(said), *(cut for cut in cuts if cut < len(said))})
    pieces = [said[start:end] for start, end in itertools.pairwise(places)]
    assert outcome(SYNTAXES[name], pieces) == outcome(SYNTAXES[name], [said])
    assert outcome(SYNTAXES[name], [*said]) == outcome(SYNTAXES[name], [said])


@given(st.sampled_from([*SYNTAXES]), st.text(alphabet='a\n <>{}"[]|/_toolcarg', max_size=200))
def test_text_without_marks_is_told_as_it_is(name: str, said: str) -> None:
    expected = [Text(said)] if said.strip() else []
    assert outcome(SYNTAXES[name], [*said]) == expected


class Counting(Held):
    """Counts characters that are held whenever some are added or taken off: what may be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def add(self, text: str, scores: Scores) -> None:
        super().add(text, scores)
        self.seen += len(self.text)

    def _taken(self, length: int) -> str:
        self.seen += len(self.text)
        return super()._taken(length)


BIG = "x" * 9 + " "


@pytest.mark.parametrize(
    ("syntax", "said"),
    [
        (QWEN, BIG * 100_000),
        (QWEN, "\n" * 100_000),
        (QWEN, "<tool_call>" * 10_000),
        (QWEN, '\n<tool_call>{"' * 10_000),
        (QWEN, "<tool_call>" + '{"a":' * 20_000),
        (QWEN, '<tool_call>{"arguments": {"at": "' + BIG * 10_000 + '"}, "name": "look"}'),
        (QWEN, '<tool_call>{"name": "look", "arguments": {"at": "' + BIG * 10_000 + '"}}'),
        (QWEN, "<think>" * 10_000),
        (QWEN, '<tool_call>{"name": "look", "arguments": {}}' + "\n" * 100_000),
        (LLAMA, '{"name": "' + BIG * 10_000),
        (DEEPSEEK, wide("<|tool▁calls▁begin|>") * 10_000),
        (CODER, "<tool_call>" * 10_000),
        (CODER, coder_call(at=BIG * 10_000)),
        (CODER, coder_call(at="</parameter>\n" * 10_000)),
    ],
)
@pytest.mark.parametrize("size", [64, 1_000_000])
def test_the_work_for_an_answer_is_proportional_to_its_length(
    syntax: Syntax, said: str, size: int
) -> None:
    held = Counting()
    reader = FreeReader(TOOLS, held, syntax)
    for start in range(0, len(said), size):
        reader.push(said[start : start + size])
    reader.cut()
    assert held.seen < 400 * len(said)
    assert not held.parked


def scores(*tokens: bytes) -> list[items_pb2.Logprob]:
    return [items_pb2.Logprob(bytes=token, logprob=-len(token)) for token in tokens]


def told(produced: list[Produced]) -> list[tuple[str, list[bytes]]]:
    """Return texts, each with the tokens that were scored with it."""
    texts = (part for part in produced if isinstance(part, ScoredText))
    return [(text.text, [bytes(score.bytes) for score in text.logprobs]) for text in texts]


def test_a_token_is_scored_with_the_text_that_it_begins_in() -> None:
    reader = FreeReader(TOOLS, ScoredHeld(), QWEN)
    assert told(reader.push("a.\n", scores(b"a", b".\n"))) == [("a.", [b"a", b".\n"])]
    assert told(reader.push("ü", scores(b"\xc3", b"\xbc"))) == [("\nü", [b"\xc3", b"\xbc"])]


def test_the_tokens_of_calls_are_not_scored() -> None:
    reader = FreeReader(TOOLS, ScoredHeld(), QWEN)
    produced = reader.push("Go.\n", scores(b"Go", b".", b"\n"))
    produced += reader.push(CALL + "\nno", scores(CALL.encode(), b"\n", b"no"))
    assert told(produced) == [("Go.", [b"Go", b"."]), ("\nno", [b"\n", b"no"])]
    others = [part for part in produced if not isinstance(part, ScoredText)]
    assert joined(others) == CALLED


def test_the_tokens_of_thoughts_are_not_scored() -> None:
    reader = FreeReader(TOOLS, ScoredHeld(), QWEN)
    produced = reader.push("<think>Hm", scores(b"<think>", b"Hm"))
    produced += reader.push("</think>\nHi", scores(b"</think>", b"\n", b"Hi"))
    assert produced[0] == ReasoningText("Hm")
    assert told(produced) == [("Hi", [b"Hi"])]


def test_what_only_looked_like_a_call_is_scored_in_the_end() -> None:
    reader = FreeReader(TOOLS, ScoredHeld(), QWEN)
    assert told(reader.push("a\n<tool_call>", scores(b"a", b"\n<tool_", b"call>"))) == [
        ("a", [b"a"])
    ]
    assert told(reader.end()) == [("\n<tool_call>", [b"\n<tool_", b"call>"])]
