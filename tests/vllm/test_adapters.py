"""What every adapter does in front of a real vLLM."""

import asyncio
import json
from contextlib import aclosing

import pytest

from service.errors import ModelError
from tests.service.backends.llama_cpp.conversing import call_output, user
from tests.vllm import lab
from tests.vllm.conftest import Front
from tests.vllm.conversation import SYSTEM, WEATHER, Conversation
from tests.vllm.load import running

_SOON = 10.0  # seconds; what is cancelled here would take several times that
_ENDLESS = {"max_output_tokens": 3500}


async def test_an_answer_streams_and_is_counted(front: Front) -> None:
    turn = await Conversation(front.backend).say(user("Say hello."))
    assert turn.text
    assert turn.finished.reason == "length"
    assert (turn.finished.input_tokens, turn.finished.output_tokens) == (12, 8)


async def test_an_agent_calls_a_tool_reads_its_output_and_goes_on(front: Front) -> None:
    tools = {"tools": [WEATHER], "parallel_tool_calls": False, "max_output_tokens": 80}
    conversation = Conversation(front.backend, settings=tools)
    called = await conversation.say(user("Weather?"), tool_choice_mode="required")
    assert called.called == ["get_weather"]
    assert json.loads(called.arguments)["city"] in {"Tokyo", "Oslo"}
    assert called.finished.reason == "stop"
    answer = await conversation.say(call_output("Sunny."), tool_choice_mode="none")
    assert answer.text
    assert answer.finished.input_tokens > called.finished.input_tokens
    again = await conversation.say(user("And now?"), tool_choice_mode="required")
    assert again.called == ["get_weather"]


async def test_the_second_turn_is_not_computed_from_the_start(front: Front) -> None:
    conversation = Conversation(front.backend, settings={"instructions": SYSTEM})
    first = await conversation.say(user("One."))
    second = await conversation.say(user("Two."))
    assert second.finished.cached_tokens >= first.finished.input_tokens // lab.BLOCK * lab.BLOCK


async def test_a_tenant_cannot_tell_what_another_one_said(front: Front) -> None:
    if front.backend.capabilities.hint != "salt":
        pytest.skip("this interface of vLLM knows no salt")
    secret = {"instructions": f"{front.row.name}: {SYSTEM}"}
    theirs, ours = (Conversation(front.backend, who, secret) for who in ("they", "we"))
    await theirs.say(user("One."))
    assert (await ours.say(user("One."))).finished.cached_tokens == 0


async def test_letting_go_frees_vllm(front: Front) -> None:
    prompt = Conversation(front.backend, settings=_ENDLESS).prompt(user("Count to a thousand."))
    async with aclosing(front.backend.generate(prompt)) as batches:
        await anext(batches)
        assert await running(front.row.face, front.port) == 1
    async with asyncio.timeout(_SOON):
        while await running(front.row.face, front.port):
            await asyncio.sleep(0.05)


async def test_a_prompt_that_is_too_long_is_said_to_be_so(front: Front) -> None:
    with pytest.raises(ModelError) as told:
        await Conversation(front.backend).say(user("word " * lab.CONTEXT))
    assert told.value.code == "context_length_exceeded"


async def test_what_vllm_refuses_is_the_requests_fault(front: Front) -> None:
    with pytest.raises(ModelError) as told:
        await Conversation(front.backend).say(user("Hello."), temperature=-1.0)
    assert told.value.code == "invalid_prompt"
