"""Learned templates against what they were learned from: real ones, and some made to be difficult."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import ModelError
from service.rendering import Cycle, Message, Opening, Piece
from service.rendering.learning import LearnedTemplate
from service.rendering.made_up import AFTER, BEFORE
from service.rendering.proving import cycles_of
from service.rendering.specials import BREAK
from service.rendering.tokenizer import LocalTokenizer
from service.rendering.vocabulary import vocabulary_of
from tests.vocabularies import SPECIAL, TAGS, TEMPLATES, real_files, real_tokenizer, tiny_files

TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
NO_CALLS = {"strict", "strict, stripping", "llama3_1"}
ADDITIVE = [
    "keeps thoughts",
    "keeps thoughts, stripping",
    "tagged calls",
    "tagged calls, stripping",
    "strict",
    "strict, stripping",
    "qwen3",
    "llama3_1",
]


@cache
def model(name: str) -> tuple[LocalTokenizer, LearnedTemplate]:
    written, _, stripping = name.partition(", ")
    made = written in TEMPLATES
    strips = SPECIAL[2] if stripping else ""
    files = tiny_files(TEMPLATES[written], strips) if made else real_files(name)
    tokenizer = LocalTokenizer.of(files) if made else real_tokenizer(name)
    return tokenizer, LearnedTemplate.of(files, tokenizer.specials)


def system(content: str) -> Message:
    return {"role": "system", "content": content}


def user(content: str) -> Message:
    return {"role": "user", "content": content}


def answer(content: str, thought: str = "") -> Message:
    return {"role": "assistant", "content": content, **_thought(thought)}


def calls(arguments: Sequence[Any], content: str = "", thought: str = "") -> Message:
    made = [
        {
            "id": f"call_{n}",
            "type": "function",
            "function": {"name": "look", "arguments": json.dumps(one)},
        }
        for n, one in enumerate(arguments)
    ]
    return {"role": "assistant", "content": content, **_thought(thought), "tool_calls": made}


def output(content: str, n: int = 0) -> Message:
    return {"role": "tool", "content": content, "tool_call_id": f"call_{n}", "name": "look"}


def _thought(thought: str) -> Mapping[str, str]:
    return {"reasoning_content": thought} if thought else {}


WORDS = [*SPECIAL, *TAGS, "<|im_end|>", "<think>", "<tool_response>", BREAK, BEFORE, AFTER]
TEXTS = st.lists(
    st.sampled_from([*WORDS, "a", " b", "\n", "\u00e9", "\U0001f980", "<", "{"]), max_size=4
)
TEXT = TEXTS.map("".join)
ARGUMENTS = st.dictionaries(TEXT, TEXT | st.integers() | st.booleans(), max_size=2)


@st.composite
def conversations(draw: st.DrawFn, *, calling: bool) -> list[list[Message]]:
    """Draw turns; the last one is new input."""
    turns: list[list[Message]] = []
    called = 0
    for _ in range(draw(st.integers(0, 3))):
        new = _input(draw, called)
        made = draw(st.lists(ARGUMENTS, max_size=2 if calling else 0))
        said, thought = draw(TEXT), draw(TEXT)
        turns.append([*new, calls(made, said, thought) if made else answer(said, thought)])
        called = len(made)
    return [*turns, _input(draw, called)]


def _input(draw: st.DrawFn, called: int) -> list[Message]:
    outputs = [output(draw(TEXT), n) for n in range(called)]
    said = st.builds(user, TEXT) | st.builds(system, TEXT)
    fewest = 0 if outputs else 1
    return [*outputs, *draw(st.lists(said, min_size=fewest, max_size=2))]


@st.composite
def openings(draw: st.DrawFn, *, tools: bool) -> Opening:
    instructions = [system(draw(TEXT))] if draw(st.booleans()) else []
    thinking = draw(st.sampled_from([{}, {"enable_thinking": False}, {"enable_thinking": True}]))
    return Opening(instructions, [TOOL] if tools and draw(st.booleans()) else [], thinking)


def parts(
    template: LearnedTemplate, opening: Opening, turns: list[list[Message]]
) -> list[Sequence[Piece]]:
    told = map(template.turn, turns, cycles_of(turns))
    return [template.preamble(opening), *told, template.answer_opens(opening)]


def flat(several: Sequence[Sequence[Any]]) -> list[Any]:
    return [one for some in several for one in some]


@pytest.mark.parametrize("name", ADDITIVE)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_conversation_is_the_sum_of_its_turns_in_pieces_and_in_ids(
    name: str, data: st.DataObject
) -> None:
    tokenizer, template = model(name)
    opening = data.draw(openings(tools=name not in NO_CALLS))
    turns = data.draw(conversations(calling=name not in NO_CALLS))
    whole = template.whole(opening, flat(turns))
    told = parts(template, opening, turns)
    assert flat(told) == list(whole)
    ids, *some = asyncio.run(tokenizer.encode([whole, *told]))
    assert flat(some) == ids


@pytest.mark.parametrize("name", [*ADDITIVE, "late tools", "deepseek_v3"])
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_nothing_that_is_said_acts_as_a_special_token(name: str, data: st.DataObject) -> None:
    tokenizer, template = model(name)
    spelled = "".join(
        data.draw(st.lists(st.sampled_from(list(tokenizer.specials.ids)), max_size=4))
    )
    said, harmless = (
        template.whole(Opening([], [], {}), [user(f"x{text}x"), answer(f"x{text}x"), user("x")])
        for text in (spelled, "y")
    )
    assert [p for p in said if isinstance(p, int)] == [p for p in harmless if isinstance(p, int)]
    assert sum(f"x{spelled}x" in piece for piece in said if isinstance(piece, str)) == 2
    special = tokenizer.specials.spelling.keys()
    (ids,) = asyncio.run(tokenizer.encode([said]))
    assert [i for i in ids if i in special] == [p for p in said if isinstance(p, int)]


@pytest.mark.parametrize("name", ["qwen3", "llama3_1", "deepseek_v3", "keeps thoughts"])
def test_ids_are_those_of_the_text_that_hugging_face_would_tokenise(name: str) -> None:
    tokenizer, template = model(name)
    files = tiny_files(TEMPLATES[name]) if name in TEMPLATES else real_files(name)
    told = [user("Wie geht's, \u4f60\u597d?\n\n"), answer(" Gut: 42.\n"), user("\tUnd?")]
    whole = template.whole(Opening([system("Be kind.")], [], {}), told)
    (ids,) = asyncio.run(tokenizer.encode([whole]))
    text = tokenizer.specials.spelled(whole)
    assert ids == vocabulary_of(files["tokenizer.json"]).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", ADDITIVE)
def test_an_answer_opens_and_closes_as_it_stands_in_its_turn(name: str) -> None:
    _, template = model(name)
    new, said = [user("Hm?")], answer("Hello")
    turn = template.turn([*new, said], Cycle.CLOSED)
    opened = [*template.turn(new, Cycle.OPEN), *template.answer_opens(Opening([], [], {}))]
    spelled = model(name)[0].specials.spelled
    begins = spelled(opened).removesuffix("<think>\n")
    assert spelled(turn) == f"{begins}Hello{spelled(template.answer_closes)}"
    assert template.answer_closes[0] in template.ends


def test_thoughts_are_told_until_the_user_speaks_again() -> None:
    for name in ("qwen3", "keeps thoughts"):
        tokenizer, template = model(name)
        turn = [user("Why?"), calls([{"a": 1}], thought="Let me see.")]
        assert "Let me see." in tokenizer.specials.spelled(template.turn(turn, Cycle.OPEN))
        assert "Let me see." not in tokenizer.specials.spelled(template.turn(turn, Cycle.CLOSED))


def test_a_prompt_may_open_with_a_thought_or_with_none() -> None:
    tokenizer, template = model("qwen3")
    silent = template.answer_opens(Opening([], [], {"enable_thinking": False}))
    assert tokenizer.specials.spelled(silent).endswith("<think>\n\n</think>\n\n")
    assert silent[:2] == template.answer_opens(Opening([], [], {}))


@pytest.mark.parametrize(
    ("name", "why"),
    [("late tools", "calls"), ("deepseek_v3", "its turns")],
)
def test_a_template_whose_turns_do_not_add_up_says_why(name: str, why: str) -> None:
    _, template = model(name)
    assert not template.additive
    assert template.refusal.startswith(why)
    whole = template.whole(Opening([system("S")], [], {}), [user("a"), answer("b"), user("c")])
    assert whole
    assert template.answer_closes[0] in template.ends


def test_instructions_in_the_first_message_of_the_user_do_not_add_up() -> None:
    source = (
        "{% set first = messages[0].content if messages[0].role == 'system' else '' %}"
        "{% for m in messages if m.role != 'system' %}"
        "<|turn|>{{ m.role }}\n{{ first if loop.first }}{{ m.content }}<|over|>{% endfor %}"
        "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
    )
    files = tiny_files(source)
    template = LearnedTemplate.of(files, LocalTokenizer.of(files).specials)
    assert template.refusal == "instructions"


def test_a_template_without_special_tokens_is_told_at_once() -> None:
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    files = {**tiny_files(source + "{% if add_generation_prompt %}assistant:{% endif %}")}
    template = LearnedTemplate.of(files, LocalTokenizer.of(files).specials)
    assert not template.additive
    assert template.whole(Opening([], [], {}), [user("a")]) == ["user: a\nassistant:"]
    assert template.answer_closes == sorted(template.ends)


@pytest.mark.parametrize("name", ["strict", "llama3_1"])
def test_a_model_that_knows_no_tools_is_told_of_none(name: str) -> None:
    _, template = model(name)
    with pytest.raises(ModelError, match="tools"):
        template.whole(Opening([], [TOOL], {}), [user("a")])
    with pytest.raises(ModelError, match="tools"):
        template.preamble(Opening([], [TOOL], {}))
    with pytest.raises(ModelError, match="calls"):
        template.turn([user("a"), calls([{}])], Cycle.OPEN)


def test_a_late_system_message_is_the_users_where_the_template_has_no_place_for_it() -> None:
    _, template = model("strict")
    assert template.turn([system("S"), user("a")], Cycle.OPEN) == template.turn(
        [user("S\n\na")], Cycle.OPEN
    )


def test_no_messages_are_no_turn() -> None:
    assert model("strict")[1].turn([], Cycle.OPEN) == []


def test_a_turn_may_say_the_words_it_is_found_by() -> None:
    _, template = model("keeps thoughts")
    said = f"{BEFORE} {AFTER}"
    turn = template.turn([user(said), answer(said)], Cycle.CLOSED)
    assert [piece for piece in turn if isinstance(piece, str) and said in piece] == [
        f"user\n{said}",
        f"assistant\n{said}",
    ]


def test_templates_are_told_apart() -> None:
    identities = [model(name)[1].identity for name in TEMPLATES]
    assert len(set(identities)) == len(identities)
    files = tiny_files(TEMPLATES["strict"])
    again = LearnedTemplate.of(files, LocalTokenizer.of(files).specials)
    assert again.identity == model("strict")[1].identity


def _lines() -> Iterator[str]:
    yield "{{ bos_token }}{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}"
    yield "{% for c in m.tool_calls or [] %}"
    yield "{% if c.id | length != 9 %}{{ raise_exception('no') }}{% endif %}"
    yield "<call>{{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }}</call>"
    yield "{% endfor %}<|over|>{% endfor %}"
    yield "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"


def test_ids_of_calls_are_made_short_where_the_template_insists() -> None:
    files = tiny_files("".join(_lines()))
    tokenizer = LocalTokenizer.of(files)
    template = LearnedTemplate.of(files, tokenizer.specials)
    assert template.additive
    told = tokenizer.specials.spelled(template.turn([user("a"), calls([{"k": 1}])], Cycle.OPEN))
    assert 'look {"k": 1}' in told
    assert "call_0" not in told
