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
from service.parsing.harmony import HarmonyReader
from service.parsing.held import Held, ScoredHeld
from tests.service.parsing.reading import TOOLS, joined, read, read_cut
from turnwire.v1 import items_pb2

THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|>"
CALL = '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"at": "b"}<|call|>'
NEXT = "<|start|>assistant"
CALLED = [FunctionCallBegins("look"), CallText('{"at": "b"}'), ItemEnds()]
THOUGHTS = [ReasoningText("Hm."), ItemEnds()]


def harmony_reader(opened: str = NEXT) -> HarmonyReader:
    return HarmonyReader(TOOLS, Held(), opened)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("<|channel|>final<|message|>Hi < you.<|return|>", [Text("Hi < you."), ItemEnds()]),
        ("<|channel|>final<|message|>Hi.", [Text("Hi.")]),
        (THOUGHT + NEXT + CALL, [*THOUGHTS, *CALLED]),
        (THOUGHT + NEXT + CALL.removesuffix("<|call|>"), [*THOUGHTS, *CALLED]),
        (
            "<|channel|>commentary<|message|>I look.<|end|>" + NEXT + CALL,
            [Text("I look."), ItemEnds(), *CALLED],
        ),
        (
            ' to=functions.look<|channel|>commentary json<|message|>{"at": "b"}<|call|>',
            CALLED,
        ),
        (CALL + NEXT + CALL, [*CALLED, *CALLED]),
        (
            "<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Hi.",
            [*THOUGHTS, Text("Hi.")],
        ),
        (
            '<|channel|>commentary to=functions.run<|message|>{"input": "1\\n2"}',
            [CustomCallBegins("run"), CallText("1\n2"), ItemEnds()],
        ),
        (
            "<|channel|>commentary to=functions.crm__find<|message|>{}<|call|>",
            [FunctionCallBegins("find", "crm"), CallText("{}"), ItemEnds()],
        ),
        (CALL.replace("look", "leap"), [Text('{"at": "b"}'), ItemEnds()]),
        ("Hi without a header.", [Text("Hi without a header.")]),
        (THOUGHT + NEXT + "<|chan", THOUGHTS),
        ("<|channel|>final<|message|><|end|>", []),
        ("", []),
    ],
)
def test_messages_are_told_apart_however_they_are_cut(said: str, meant: list[Produced]) -> None:
    assert read(harmony_reader(), said) == meant
    for cut in range(len(said) + 1):
        assert read(harmony_reader(), [said[:cut], said[cut:]]) == meant


def test_an_answer_may_begin_inside_a_message() -> None:
    opened = "<|end|><|start|>assistant<|channel|>final<|message|>"
    assert read(harmony_reader(opened), "Hi.<|return|>") == [Text("Hi."), ItemEnds()]


def test_what_is_sure_is_told_at_once() -> None:
    reader = harmony_reader()
    assert reader.push("<|channel|>analysis<|message|>") == []
    assert reader.push("I") == [ReasoningText("I")]
    assert reader.push(" am <") == [ReasoningText(" am ")]
    assert reader.push("b") == [ReasoningText("<b")]
    assert reader.push("<|end|>") == [ItemEnds()]


def test_a_call_that_was_cut_off_is_not_whole() -> None:
    call = CALL.removesuffix("<|call|>")
    for length in range(len(call) + 1):
        assert ItemEnds() not in read_cut(harmony_reader(), [call[:length]])


def test_a_call_that_its_model_breaks_off_is_an_error() -> None:
    reader = harmony_reader()
    reader.push(CALL.partition('"b"')[0])
    with pytest.raises(ModelError):
        reader.end()


def test_only_the_tokens_of_text_are_scored() -> None:
    reader = HarmonyReader(TOOLS, ScoredHeld())
    produced: list[Produced] = []
    for token in ("<|channel|>", "analysis", "<|message|>", "Hm", "<|end|>", NEXT, "<|channel|>"):
        produced += reader.push(token, [items_pb2.Logprob(bytes=token.encode())])
    for token in ("final", "<|message|>", "Hi"):
        produced += reader.push(token, [items_pb2.Logprob(bytes=token.encode())])
    (scored,) = [part for part in produced if isinstance(part, ScoredText)]
    assert [bytes(score.bytes) for score in scored.logprobs] == [b"Hi"]


MARKS = ["<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", "<|return|>", "analysis"]
MARKS += ["final", "commentary to=functions.look", "{", "}", '"', "assistant", "<|", "\n", "a"]
ANSWERS = st.lists(st.sampled_from(MARKS) | st.text(max_size=4), max_size=25).map("".join)


def outcome(pieces: list[str]) -> list[Produced] | str:
    reader = harmony_reader()
    produced = [part for piece in pieces for part in reader.push(piece)]
    try:
        return joined([*produced, *reader.end()])
    except ModelError as error:
        return error.message


@given(ANSWERS, st.integers(0, 100))
def test_how_an_answer_is_cut_into_pieces_changes_nothing(said: str, cut: int) -> None:
    assert outcome([*said]) == outcome([said])
    assert outcome([said[:cut], said[cut:]]) == outcome([said])


@given(st.text(alphabet="a <|>mesg\n", min_size=1))
def test_the_text_of_a_message_is_told_as_it_is(said: str) -> None:
    assert outcome(["<|channel|>final<|message|>", *said]) == [Text(said)]


def test_headers_are_bounded() -> None:
    reader = harmony_reader()
    told = [part for _ in range(10_000) for part in reader.push("<|start|>")]
    said = sum(len(part.text) for part in told if isinstance(part, Text))
    assert said > 10_000 * len("<|start|>") - 1000
