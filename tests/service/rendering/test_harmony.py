"""Harmony, turn by turn and at once, and against what OpenAI says that it looks like."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from service.errors import ModelError
from service.rendering import Cycle, Files, Message, Opening, Piece
from service.rendering.harmony import HarmonyTemplate
from service.rendering.specials import Specials
from service.rendering.tokenizer import LocalTokenizer
from tests.service.rendering.conversations import (
    TOOL,
    WORDS,
    by_turns,
    conversations,
    messages_of,
    openings,
)
from tests.vocabularies import real_files, tiny_files

PLAIN = Opening([], [], {})
ASKED: Message = {"role": "user", "content": "Where?"}
CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at": "x"}'}}
OUTPUT: Message = {"role": "tool", "tool_call_id": "1", "name": "look", "content": "There."}
THOUGHT: Message = {
    "role": "assistant",
    "content": "Let me look.",
    "reasoning_content": "Look first.",
    "tool_calls": [CALL],
}
ANSWER: Message = {"role": "assistant", "content": "Here.", "reasoning_content": "Found it."}

TOLD = """\
<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.
Knowledge cutoff: 2024-06
Current date: 2026-11-23

Reasoning: high

# Valid channels: analysis, commentary, final. Channel must be included for every message.
Calls to these tools must go to the commentary channel: 'functions'.<|end|>\
<|start|>developer<|message|># Instructions

Be brief.

# Tools

## functions

namespace functions {

// Looks at something.
type look = (_: {
at?: string,
}) => any;

} // namespace functions<|end|>\
<|start|>user<|message|>Where?<|end|>\
<|start|>assistant<|channel|>analysis<|message|>Look first.<|end|>\
<|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>\
<|start|>assistant to=functions.look<|channel|>commentary <|constrain|>json<|message|>{"at": "x"}<|call|>\
<|start|>functions.look to=assistant<|channel|>commentary<|message|>There.<|end|>\
<|start|>assistant"""


@cache
def template() -> HarmonyTemplate:
    return HarmonyTemplate.of(real_files("gptoss"))


@cache
def specials() -> Specials:
    return Specials(json.loads(real_files("gptoss")["tokenizer.json"])["added_tokens"])


@cache
def tokenizer() -> LocalTokenizer:
    return LocalTokenizer.of(real_files("gptoss"))


async def ids_of(text: str) -> list[int]:
    """Return the ids of text in which special tokens are spelled."""
    return (await tokenizer().encode([specials().pieces(text)]))[0]


async def test_a_conversation_looks_as_it_should() -> None:
    options = {"reasoning_effort": "high", "conversation_start_date": "2026-11-23"}
    opening = Opening([{"role": "system", "content": "Be brief."}], [TOOL], options)
    whole = template().whole(opening, [ASKED, THOUGHT, OUTPUT])
    assert list(whole) == await ids_of(TOLD)


async def test_thoughts_are_told_until_the_user_speaks_again() -> None:
    answered = [OUTPUT, ANSWER]
    thought = await ids_of("<|start|>assistant<|channel|>analysis<|message|>Found it.<|end|>")
    told = await ids_of(
        "<|start|>functions.look to=assistant<|channel|>commentary<|message|>There.<|end|>"
    )
    final = await ids_of("<|start|>assistant<|channel|>final<|message|>Here.<|end|>")
    assert template().turn(answered, Cycle.OPEN) == [*told, *thought, *final]
    assert template().turn(answered, Cycle.CLOSED) == [*told, *final]


def test_thoughts_before_a_later_message_of_the_same_turn_are_not_told() -> None:
    silent = {key: value for key, value in ANSWER.items() if key != "reasoning_content"}
    told = [template().turn([ASKED, one, ASKED], Cycle.OPEN) for one in (ANSWER, silent)]
    assert told[0] == told[1]


@given(opening=openings(WORDS), turns=conversations(WORDS))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_turns_add_up_to_the_whole(opening: Opening, turns: Sequence[Sequence[Message]]) -> None:
    assert by_turns(template(), opening, turns) == template().whole(opening, messages_of(turns))


def test_no_special_token_is_made_of_what_was_said() -> None:
    told = [
        special_ids(template().whole(*looking(text))) for text in ("x", "".join(specials().ids))
    ]
    assert told[0] == told[1]


async def test_an_answer_opens_and_closes_and_ends_as_it_is_sampled() -> None:
    assert list(template().answer_opens(PLAIN)) == await ids_of("<|start|>assistant")
    assert list(template().answer_closes) == await ids_of("<|end|>")
    assert template().ends == frozenset(await ids_of("<|return|><|call|>"))


@pytest.mark.parametrize(("asked", "told"), [("none", "low"), ("xhigh", "high"), (None, "medium")])
def test_an_effort_is_the_nearest_that_there_is(asked: str | None, told: str) -> None:
    preambles = [
        template().preamble(PLAIN._replace(options={"reasoning_effort": effort}))
        for effort in (asked, told)
    ]
    assert preambles[0] == preambles[1]


@pytest.mark.parametrize("effort", ["much", ["high"], 3])
def test_an_effort_that_is_none_is_the_clients_error(effort: Any) -> None:
    with pytest.raises(ModelError) as raised:
        template().preamble(PLAIN._replace(options={"reasoning_effort": effort}))
    assert raised.value.code == "invalid_prompt"


@pytest.mark.parametrize("parameters", [{"type": 3}, {"properties": []}, {"anyOf": {}}, {}])
def test_any_schema_is_told_somehow(parameters: Mapping[str, Any]) -> None:
    tool = {"type": "function", "function": {"name": "odd", "parameters": parameters}}
    assert template().preamble(Opening([], [tool], {}))


def test_half_a_character_is_the_clients_error() -> None:
    with pytest.raises(ModelError) as raised:
        template().turn([{"role": "user", "content": "\ud800"}], Cycle.OPEN)
    assert raised.value.code == "invalid_prompt"


@pytest.mark.parametrize(
    "files", [{}, {"tokenizer.json": b"{"}, {"tokenizer.json": b"[]"}, tiny_files("Not this one.")]
)
def test_another_vocabulary_is_the_operators_error(files: Files) -> None:
    before = dict(os.environ)
    with pytest.raises(ModelError) as raised:
        HarmonyTemplate.of(files)
    assert raised.value.code == "server_error"
    assert dict(os.environ) == before


def looking(text: str) -> tuple[Opening, list[Message]]:
    """Return a conversation in which everybody says the same."""
    tool = {"type": "function", "function": {"name": "look", "description": text}}
    call = {"id": text, "type": "function", "function": {"name": "look", "arguments": text}}
    said: Message = {"role": "assistant", "content": text, "reasoning_content": text}
    output: Message = {"role": "tool", "tool_call_id": text, "name": text, "content": text}
    opening = Opening([{"role": "system", "content": text}], [tool], {"model_identity": text})
    return opening, [{"role": "user", "content": text}, {**said, "tool_calls": [call]}, output]


def special_ids(pieces: Sequence[Piece]) -> list[Piece]:
    return [piece for piece in pieces if piece in specials().spelling]
