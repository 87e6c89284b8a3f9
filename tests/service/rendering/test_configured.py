import json
from typing import Any

import pytest

from service.errors import ModelError
from service.rendering.configured import ends_of, sources_of, tokens_of
from service.rendering.specials import Specials

SPECIALS = Specials(
    {
        "content": text,
        "id": n,
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }
    for n, text in enumerate(("<s>", "</s>"))
)


def files(**contents: Any) -> dict[str, bytes]:
    return {f"{name}.json": json.dumps(content).encode() for name, content in contents.items()}


def test_a_template_is_found_wherever_it_stands() -> None:
    configured = files(tokenizer_config={"chat_template": "a"})
    assert sources_of(configured) == {"default": "a"}
    assert sources_of(configured | files(chat_template={"chat_template": "b"})) == {"default": "b"}
    assert sources_of({**configured, "chat_template.jinja": b"c"}) == {"default": "c"}
    assert sources_of({}) == {}


def test_templates_may_have_names() -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}, {}]
    configured = files(tokenizer_config={"chat_template": named})
    assert sources_of(configured) == {"default": "a", "tool_use": "b"}


def test_tokens_are_texts_or_objects_or_not_there() -> None:
    configured = {
        "bos_token": {"content": "<s>", "special": True},
        "eos_token": "</s>",
        "unk_token": None,
        "add_bos_token": True,
        "additional_special_tokens": ["<x>", {"content": "<y>"}],
    }
    assert tokens_of(files(tokenizer_config=configured)) == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "additional_special_tokens": ["<x>", "<y>"],
    }
    assert tokens_of(files(special_tokens_map={"bos_token": "<s>"})) == {"bos_token": "<s>"}


@pytest.mark.parametrize("ends", [7, [7], [7, 1]])
def test_ends_of_answers_are_gathered(ends: Any) -> None:
    named = files(tokenizer_config={"eos_token": "</s>"}, generation_config={"eos_token_id": ends})
    assert ends_of(named, SPECIALS) == {1, 7}


def test_without_configuration_there_are_no_ends() -> None:
    assert ends_of({}, SPECIALS) == frozenset()


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
        sources_of({"tokenizer_config.json": b"{"})
