"""Models that come with a chat template of their own, against a real server."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from service.backends import Finished, FunctionCallBegins
from service.backends.llama_cpp.backend import LlamaCpp
from service.conversation import Segment
from service.errors import ModelError
from service.rendering.proof import Outcome, Proof
from tests.llama_servers import LlamaServer
from tests.models import IM_END, IM_START, tiny_gguf
from tests.service.backends.llama_cpp.conversing import (
    assistant,
    call_output,
    converse,
    function,
    prompt,
    user,
)

OWN = """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}
{%- set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- if tools %}<|im_start|>tools
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}:
{%- if message.reasoning_content is defined and loop.index0 > ns.last -%}
<think>{{ message.reasoning_content }}</think>
{%- endif %}{{ message.content or '' }}
{%- for call in message.tool_calls or [] -%}
[call {"tool": "{{ call.function.name }}", "with": {{ call.function.arguments | tojson }}} /call]
{%- endfor %}<|im_end|>
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant:{% endif %}"""
SPOKEN = "<|im_start|>assistant:"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    weights = tiny_gguf(tmp_path_factory.mktemp("own"), OWN)
    with LlamaServer(weights=weights, slots=2).running() as url:
        yield url


@pytest.fixture
def outcomes() -> list[Outcome]:
    return []


@pytest.fixture
async def llama(address: str, outcomes: list[Outcome]) -> AsyncIterator[LlamaCpp]:
    proof = Proof(1, outcomes.append)
    backend = LlamaCpp(address, defaults={"temperature": 0}, proof=proof)
    await backend.start()
    yield backend
    await backend.stop()


def text_of(segment: Segment) -> str:
    (rendered,) = segment.rendered.values()
    names = {IM_START: "<|im_start|>", IM_END: "<|im_end|>"}
    tokens = [int(token) for token in rendered.data.split(b",")]
    return "".join(names.get(token) or chr(token) for token in tokens)


async def test_a_model_is_told_a_conversation_by_its_own_template(llama: LlamaCpp) -> None:
    turn = await converse(llama, prompt(user("hello <|im_end|>")))
    assert text_of(turn.segment).startswith("<|im_start|>user:hello <|im_end|><|im_end|>" + SPOKEN)
    ids = [int(t) for r in turn.segment.rendered.values() for t in r.data.split(b",")]
    assert ids.count(IM_END) == 2


async def test_every_prompt_of_a_conversation_is_proven(
    llama: LlamaCpp, outcomes: list[Outcome]
) -> None:
    history: list[Segment] = []
    weather = function("get_weather", city={"type": "string"})
    for number in range(4):
        asked = prompt(
            user(f"{number}?"), history=history, tools=[weather], instructions="Be kind."
        )
        turn = await converse(llama, asked)
        history.append(Segment(None, [*asked.input, assistant(turn.text)], turn.segment.rendered))
        assert turn.finished.cached_tokens > 0 or number == 0
    assert len(outcomes) == 4
    assert set(outcomes) <= {"identical", "respelled"}


async def test_a_call_is_forced_in_the_models_own_form(llama: LlamaCpp) -> None:
    weather = function("get_weather", city={"enum": ["Oslo"]})
    asked = prompt(user("?"), tools=[weather], tool_choice_mode="required", max_output_tokens=60)
    turn = await converse(llama, asked)
    assert turn.produced[0] == FunctionCallBegins("get_weather")
    said = '[call {"tool": "get_weather", "with": {"city": "Oslo"}} /call]<|im_end|>'
    assert text_of(turn.segment).endswith(SPOKEN + said)
    after = await converse(llama, prompt(call_output("sunny"), history=[turn.segment]))
    assert isinstance(after.produced[-1], Finished)


async def test_a_template_that_knows_no_tools_gives_way_to_chat_ml(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    plain = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    weights = tiny_gguf(tmp_path_factory.mktemp("plain"), plain)
    with LlamaServer(weights=weights).running() as url:
        backend = LlamaCpp(url, defaults={"temperature": 0})
        await backend.start()
        weather = function("get_weather", city={"enum": ["Oslo"]})
        forced: dict[str, Any] = {"tools": [weather], "tool_choice_mode": "required"}
        asked = prompt(user("?"), **forced, max_output_tokens=60)
        turn = await converse(backend, asked)
        await backend.stop()
    called = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
    assert called in text_of(turn.segment)


async def test_images_are_refused(llama: LlamaCpp) -> None:
    asked = user("look")
    asked.message.ClearField("content_text")
    part = asked.message.content.add()
    part.input_image.image_url = "data:,"
    with pytest.raises(ModelError, match="text only"):
        await converse(llama, prompt(asked))
