import dataclasses
import json

import pytest

from service.backends import Prompt
from service.backends.recent import Recent
from service.backends.tools import Toolbox
from service.conversation import Rendered
from service.errors import ModelError
from service.rendering import Opening
from service.rendering.preambles import Preamble, key_of, opening_of
from turnwire.v1 import items_pb2, responses_pb2

NOTHING = Rendered(b"", 0)


def prompt(extra: object = None, schema: str = "{}") -> Prompt:
    function = items_pb2.FunctionTool(name="look", parameters_json=schema)
    return Prompt(
        history=[],
        input=[],
        legible=lambda items: items,
        model="m",
        settings=responses_pb2.Settings(instructions="Be brief."),
        tools=[items_pb2.Tool(function=function)],
        logprobs=False,
        extra_json=json.dumps(extra or {}),
        conversation="c",
        tenant="one",
    )


def preamble(said: str = "") -> Preamble:
    opening = Opening([{"role": "system", "content": said}], [], {})
    return Preamble(Toolbox([]), opening, NOTHING, NOTHING)


def test_tenants_who_say_the_same_share_nothing() -> None:
    one = prompt()
    assert key_of(one) == key_of(prompt())
    assert key_of(one) != key_of(dataclasses.replace(one, tenant="other"))


def test_what_is_told_at_once_weighs_too_although_it_has_no_ids() -> None:
    kept = Recent[Preamble](budget=100_000)
    kept.put(b"small", preamble())
    kept.put(b"large", preamble("x" * 20_000))
    assert kept.get(b"small")
    kept.put(b"another", preamble("x" * 20_000))
    assert kept.get(b"large") is None
    assert kept.get(b"another")
    assert kept.get(b"small")


def test_what_is_larger_than_the_budget_is_not_kept() -> None:
    kept = Recent[Preamble](budget=100_000)
    assert kept.put(b"huge", preamble("x" * 100_000))
    assert kept.get(b"huge") is None


@pytest.mark.parametrize("size", [16 * 1024, 1_000_000])
def test_options_for_templates_are_few(size: int) -> None:
    with pytest.raises(ModelError) as error:
        key_of(prompt({"chat_template_kwargs": {"word": "x" * size}}))
    assert error.value.code == "invalid_prompt"
    assert "xx" not in error.value.message


@pytest.mark.parametrize("depth", [300, 900])
def test_what_is_nested_too_deeply_is_refused_in_words(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    told = dataclasses.replace(
        prompt(), extra_json=f'{{"chat_template_kwargs": {{"a": {nested}}}}}'
    )
    with pytest.raises(ModelError) as error:
        key_of(told)
    assert error.value.code == "invalid_prompt"
    deep = prompt(schema=f'{{"a": {nested}}}')
    with pytest.raises(ModelError) as error:
        opening_of(deep, Toolbox(deep.tools))
    assert error.value.code == "invalid_prompt"
