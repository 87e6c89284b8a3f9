"""Templates of the library, turn by turn and at once, and against the library's own rendering."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import renderers  # type: ignore[import-untyped]
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from renderers.base import MODEL_RENDERER_MAP  # type: ignore[import-untyped]
from tokenizers import AddedToken, Tokenizer

from service.errors import ModelError
from service.rendering import Cycle, Files, Message, Opening, Piece
from service.rendering.learning import LearnedTemplate
from service.rendering.library import LibraryTemplate
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

REAL = {
    "deepseek-r1": "deepseek_v3",
    "deepseek-v3": "deepseek_v3",
    "prime-qwen3": "qwen3",
    "qwen3": "qwen3",
    "qwen3-vl": "qwen3",
}
"""The models whose real vocabularies there are; that of Llama lacks one token, which is added."""

NAMES = sorted(set(MODEL_RENDERER_MAP.values()) - {"gpt-oss"})
WHOLE = {"gemma4", "hy3", "llama-3"}
"""Gemma tells calls and their outputs in one message, Hy3 more thoughts where there are tools, and Llama
the tools in the first message of the user."""

PLAIN = Opening([], [], {})
HEAVY = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Vocabulary:
    """What the library calls a tokenizer, as it is: it finds special tokens in everything."""

    name_or_path = ""
    unk_token_id = None
    eos_token_id = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def encode(self, text: str, **_: Any) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, *_: Any, **__: Any) -> str:
        raise NotImplementedError

    def convert_tokens_to_ids(self, token: str) -> int | None:
        found: int | None = self.tokenizer.token_to_id(token)
        return found


class Noticing(Vocabulary):
    """Has every token that is asked for, and notices which are."""

    def __init__(self) -> None:
        self.noticed: dict[str, int] = {}

    def encode(self, text: str, **_: Any) -> list[int]:
        return [self.noticed.setdefault(text, len(self.noticed))]

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return self.encode(token)[0]


@cache
def tokens_of(name: str) -> Sequence[str]:
    """Return the special tokens that a template needs."""
    noticing = Noticing()
    renderers.create_renderer(noticing, renderers.config_from_name(name))
    return [token for token in noticing.noticed if not token.endswith("\n")]


@cache
def files_of(name: str) -> Files:
    """Return a vocabulary with the special tokens that a template needs."""
    files = real_files(REAL[name]) if name in REAL else tiny_files("Have a look around.")
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    missing = [token for token in tokens_of(name) if tokenizer.token_to_id(token) is None]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in missing])
    return {"tokenizer.json": tokenizer.to_str().encode()}


@cache
def specials_of(name: str) -> Specials:
    return Specials(json.loads(files_of(name)["tokenizer.json"])["added_tokens"])


@cache
def tokenizer_of(name: str) -> LocalTokenizer:
    return LocalTokenizer.of(files_of(name))


@cache
def template_of(name: str) -> LibraryTemplate:
    return LibraryTemplate(name, specials_of(name))


@cache
def renderer_of(name: str) -> Any:
    """Return the library's renderer as it is."""
    vocabulary = Vocabulary(Tokenizer.from_str(files_of(name)["tokenizer.json"].decode()))
    return renderers.create_renderer(vocabulary, renderers.config_from_name(name))


def library_ids(name: str, opening: Opening, messages: Sequence[Message]) -> list[int]:
    """Return what the library makes of a conversation by itself."""
    told = [parsed(message) for message in [*opening.messages, *messages]]
    tools = list(opening.tools) or None
    return list(renderer_of(name).render_ids(told, tools=tools, add_generation_prompt=True))


def parsed(message: Message) -> Any:
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.loads(call["function"]["arguments"]),
            },
        }
        for call in message.get("tool_calls", ())
    ]
    return {**message, "tool_calls": calls} if calls else dict(message)


@pytest.mark.parametrize("name", NAMES)
def test_most_templates_tell_turns_one_after_the_other(name: str) -> None:
    assert template_of(name).additive == (name not in WHOLE)


@pytest.mark.parametrize("name", sorted(set(NAMES) - WHOLE))
@given(opening=openings(WORDS), turns=conversations(WORDS))
@HEAVY
def test_turns_add_up_to_the_whole(
    name: str, opening: Opening, turns: Sequence[Sequence[Message]]
) -> None:
    template = template_of(name)
    assert by_turns(template, opening, turns) == template.whole(opening, messages_of(turns))


@pytest.mark.parametrize("name", NAMES)
@given(opening=openings(WORDS), turns=conversations(WORDS))
@settings(HEAVY, max_examples=5)
def test_ids_are_those_that_the_library_makes(
    name: str, opening: Opening, turns: Sequence[Sequence[Message]]
) -> None:
    template, messages = template_of(name), messages_of(turns)
    try:
        expected = library_ids(name, opening, messages)
    except ValueError:
        with pytest.raises(ModelError):
            template.whole(opening, messages)
    else:
        assert ids_of(name, template.whole(opening, messages)) == expected


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(HEAVY, max_examples=5)
def test_no_special_token_is_made_of_what_was_said(name: str, data: st.DataObject) -> None:
    spelled = st.sampled_from(sorted(specials_of(name).ids))
    said = data.draw(st.lists(spelled | st.sampled_from(["<", "|", ">"]), min_size=1).map("".join))
    messages: list[Message] = [{"role": "user", "content": said}]
    opening = Opening([], [TOOL], {})
    count = len(specials_in(template_of(name).whole(opening, TALK)))
    assert len(specials_in(template_of(name).whole(opening, messages))) == count
    assert said in "".join(text_in(template_of(name).whole(opening, messages)))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"llama-3"}))
def test_no_special_token_is_made_of_what_is_in_calls_outputs_and_tools(name: str) -> None:
    specials = "".join(sorted(specials_of(name).ids))
    harmless, spelled = looking("plain"), looking(specials)
    template = template_of(name)
    told = [template.whole(*conversation) for conversation in (harmless, spelled)]
    assert specials_in(told[0]) == specials_in(told[1])


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"llama-3"}))
def test_no_special_token_is_made_of_a_key_in_a_tag_of_the_templates_own(name: str) -> None:
    template, rests = template_of(name), ends_of_tokens(name)
    harmless = template.whole(*keyed([f"plain {n}" for n in range(len(rests))]))
    spelled = template.whole(*keyed(rests))
    assert specials_in(spelled) == specials_in(harmless)


def ends_of_tokens(name: str) -> list[str]:
    """Return what completes a special token between "<" or "</" and ">", or behind the first alone."""
    tokens = [token for token in sorted(specials_of(name).ids) if "<" in token]
    some = tokens[:: max(1, len(tokens) // 40)]  # a real vocabulary has hundreds of one kind
    ends = [token[1:].removeprefix("/") for token in some]
    return list(dict.fromkeys(end for token in ends for end in (token, token.removesuffix(">"))))


def keyed(keys: Sequence[str]) -> tuple[Opening, list[Message]]:
    """Return a conversation with a tool whose schema and arguments have some keys, at every level."""
    said = dict.fromkeys(keys, "x")
    field = {"type": "string", **said, "nested": said}
    schema = {"type": "object", **said, "properties": dict.fromkeys(["at", *keys], field)}
    opening, messages = looking("x")
    described = {"name": "look", "description": "x", "parameters": schema}
    call = {"name": "look", "arguments": json.dumps({**said, "at": [said]}, ensure_ascii=False)}
    made = [{"id": "0", "type": "function", "function": call}]
    tool = {"type": "function", "function": described}
    return opening._replace(tools=[tool]), [
        messages[0],
        {**messages[1], "tool_calls": made},
        *messages[2:],
    ]


@pytest.mark.parametrize("name", ["deepseek-v3", "kimi-k2", "llama-3", "qwen3"])
def test_a_sampled_answer_stands_in_its_turn_as_it_was_sampled(name: str) -> None:
    template = template_of(name)
    answered = template.turn([*TALK, {"role": "assistant", "content": "Well."}], Cycle.CLOSED)
    before = [*template.turn(TALK, Cycle.OPEN), *template.answer_opens(PLAIN)]
    assert answered == [*before, "Well.", *template.answer_closes]


def test_what_follows_an_answer_may_be_what_ends_it() -> None:
    template, user = template_of("glm-4.5"), specials_of("glm-4.5").ids["<|user|>"]
    assert user in template.ends
    assert not template.answer_closes
    assert template.turn(TALK, Cycle.OPEN)[0] == user


@pytest.mark.parametrize("name", ["qwen3.5", "nemotron-3"])
def test_a_late_system_message_is_the_users_where_there_can_be_none(name: str) -> None:
    said = {"content": "Be brief."}
    late = template_of(name).turn([{**said, "role": "system"}, *TALK], Cycle.OPEN)
    assert late == template_of(name).turn([{**said, "role": "user"}, *TALK], Cycle.OPEN)


def test_arguments_that_are_no_text_are_told_as_they_were_written() -> None:
    opening, messages = looking("x")
    call = {"name": "look", "arguments": '{"at": "\\ud800"}'}
    calls = [{"id": "1", "type": "function", "function": call}]
    messages[1] = {"role": "assistant", "content": "", "tool_calls": calls}
    assert ids_of("qwen3", template_of("qwen3").whole(opening, messages))


def test_options_change_how_an_answer_opens_and_what_stands_before() -> None:
    template = template_of("qwen3")
    opening = PLAIN._replace(options={"enable_thinking": False, "unheard_of": 1})
    empty = [
        specials_of("qwen3").ids["<think>"],
        "\n\n",
        specials_of("qwen3").ids["</think>"],
        "\n\n",
    ]
    assert template.answer_opens(opening) == [*template.answer_opens(PLAIN), *empty]
    assert template.whole(opening, TALK)[-4:] == empty


@pytest.mark.parametrize(
    ("name", "asked", "nearest"),
    [("glm-5.3", "minimal", "low"), ("glm-5.3", "xhigh", "high"), ("qwen3.8", "max", "xhigh")],
)
def test_an_effort_that_a_model_does_not_know_is_the_nearest_that_it_knows(
    name: str, asked: str, nearest: str
) -> None:
    told = [
        template_of(name).preamble(PLAIN._replace(options={"reasoning_effort": effort}))
        for effort in (asked, nearest)
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize("options", [{"enable_thinking": [1]}, {"enable_thinking": "perhaps"}])
def test_an_option_that_makes_no_sense_is_the_clients_error(options: Mapping[str, Any]) -> None:
    with pytest.raises(ModelError) as raised:
        template_of("qwen3").preamble(PLAIN._replace(options=options))
    assert raised.value.code == "invalid_prompt"


def test_what_a_template_refuses_is_the_clients_error() -> None:
    with pytest.raises(ModelError) as raised:
        template_of("llama-3").whole(*looking("x", calls=2))
    assert raised.value.code == "invalid_prompt"


def test_a_vocabulary_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError) as raised:
        LibraryTemplate("glm-5", specials_of("qwen3"))
    assert raised.value.code == "server_error"


@cache
def own_template() -> LearnedTemplate:
    return LearnedTemplate.of(real_files("qwen3"), specials_of("qwen3"))


class Silent(LibraryTemplate):
    """Refuses everything."""

    def whole(self, opening: Opening, messages: Sequence[Message]) -> Sequence[Piece]:
        raise ModelError("invalid_prompt", "No.")


@pytest.mark.parametrize("model", ["Qwen/Qwen3-8B", "/models/qwen3-8b/", "nobody/knows-it"])
def test_a_model_is_known_by_what_its_own_template_tells(model: str) -> None:
    template = LibraryTemplate.of(model, specials_of("qwen3"), own_template())
    assert template is not None
    assert template.identity == template_of("qwen3").identity


@pytest.mark.parametrize("model", ["google/gemma-4-E2B-it", "Qwen/Qwen3-VL-8B-Instruct"])
def test_a_model_whose_own_template_tells_otherwise_is_not_known(model: str) -> None:
    assert LibraryTemplate.of(model, specials_of("qwen3"), own_template()) is None


def test_a_model_whose_own_template_tells_nothing_is_not_known() -> None:
    silent = Silent("qwen3", specials_of("qwen3"))
    assert LibraryTemplate.of("Qwen/Qwen3-8B", specials_of("qwen3"), silent) is None


def test_a_model_without_a_template_is_known_by_name_only() -> None:
    specials = specials_of("deepseek-v4")
    known = LibraryTemplate.of("deepseek-ai/DeepSeek-V4-Flash-0731", specials, None)
    assert known is not None
    assert known.identity == template_of("deepseek-v4").identity
    assert LibraryTemplate.of("nobody/knows-it", specials, None) is None


TALK: list[Message] = [{"role": "user", "content": "Hello."}]


def looking(text: str, calls: int = 1) -> tuple[Opening, list[Message]]:
    """Return a conversation about a text, which a tool with that description is called with."""
    described = {"name": "look", "description": text, "parameters": TOOL["function"]["parameters"]}
    call = {"name": "look", "arguments": json.dumps({"at": text}, ensure_ascii=False)}
    made = [{"id": str(n), "type": "function", "function": call} for n in range(calls)]
    outputs: list[Message] = [
        {"role": "tool", "tool_call_id": str(n), "name": "look", "content": text}
        for n in range(calls)
    ]
    said: Message = {
        "role": "assistant",
        "content": text,
        "tool_calls": made,
        "reasoning_content": text,
    }
    system: Message = {"role": "system", "content": text}
    opening = Opening([system], [{"type": "function", "function": described}], {})
    return opening, [{"role": "user", "content": text}, said, *outputs]


def specials_in(pieces: Sequence[Piece]) -> list[int]:
    return [piece for piece in pieces if isinstance(piece, int)]


def text_in(pieces: Sequence[Piece]) -> list[str]:
    return [piece for piece in pieces if isinstance(piece, str)]


def ids_of(name: str, pieces: Sequence[Piece]) -> list[int]:
    return asyncio.run(tokenizer_of(name).encode([pieces]))[0]
