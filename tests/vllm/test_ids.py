"""Token ids in front of a real vLLM: what it is sent is what it would have made itself."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import httpx
import pytest

from service.conversation import Segment
from tests.service.backends.llama_cpp.conversing import assistant, call, call_output, user
from tests.vllm.conftest import Front
from tests.vllm.conversation import WEATHER, Conversation

Messages: TypeAlias = Sequence[dict[str, Any]]
Oracle: TypeAlias = Callable[[Messages], list[int]]

_TOLD = "You speak Zürich German. 你好 🎈"
_ASKED = "Is it  12345 °C\n\n in  Oslo?"
_CALLED = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
_BEFORE: Messages = [{"role": "system", "content": _TOLD}, {"role": "user", "content": _ASKED}]
_AFTER: Messages = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "call_1", "type": "function", "function": _CALLED}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "Minus  3."},
    {"role": "assistant", "content": "No, it is cold."},
    {"role": "user", "content": "Thanks."},
]
_SAID = [
    user(_ASKED),
    call(_CALLED["name"], _CALLED["arguments"]),
    call_output("Minus  3."),
    assistant("No, it is cold."),
]
_FUNCTION = {
    "name": WEATHER.function.name,
    "description": WEATHER.function.description,
    "parameters": json.loads(WEATHER.function.parameters_json),
}


class Sent(NamedTuple):
    """What went over the wire with a turn."""

    prompt: list[int]
    sampled: list[int]


@pytest.fixture
def sent(front: Front) -> Callable[[], Sent]:
    """What went over the wire last, where that is ids."""
    wire, tap = front.row.wire, front.tap
    if wire is None:
        pytest.skip("this adapter sends no ids")
    return lambda: Sent(wire.prompt(bytes(tap.sent)), wire.sampled(bytes(tap.answered)))


@pytest.fixture(scope="session")
def told() -> dict[str, list[int]]:
    """What vLLM said so far about the ids of conversations."""
    return {}


@pytest.fixture
def vllms_ids(front: Front, told: dict[str, list[int]]) -> Oracle:
    """Asks vLLM for the ids of a conversation with a tool. Its gRPC cannot be asked."""

    def ids(messages: Messages) -> list[int]:
        key = json.dumps(messages)
        if key not in told and front.row.face != "http":
            pytest.skip("vLLM tells its ids over HTTP only: run the rows before as well")
        if key not in told:
            body = {"messages": messages, "tools": [{"type": "function", "function": _FUNCTION}]}
            answer = httpx.post(f"http://127.0.0.1:{front.port}/tokenize", json=body)
            told[key] = answer.json()["tokens"]
        return told[key]

    return ids


@pytest.fixture
def conversation(front: Front) -> Conversation:
    return Conversation(front.backend, settings={"instructions": _TOLD, "tools": [WEATHER]})


async def test_a_first_turn_has_the_ids_that_vllm_would_have_made(
    conversation: Conversation, sent: Callable[[], Sent], vllms_ids: Oracle
) -> None:
    await conversation.say(user(_ASKED), tool_choice_mode="none")
    assert sent().prompt == vllms_ids(_BEFORE)


async def test_a_conversation_that_has_to_be_rendered_whole_has_them_too(
    conversation: Conversation, sent: Callable[[], Sent], vllms_ids: Oracle
) -> None:
    conversation.segment = Segment(None, _SAID)
    await conversation.say(user("Thanks."), tool_choice_mode="none")
    assert sent().prompt == vllms_ids([*_BEFORE, *_AFTER])


async def test_what_was_sampled_goes_on_as_it_was_sampled(
    conversation: Conversation, sent: Callable[[], Sent]
) -> None:
    required = {"tool_choice_mode": "required", "max_output_tokens": 80}
    await conversation.say(user(_ASKED), **required)
    first = sent()
    await conversation.say(call_output("Minus  3."), tool_choice_mode="none")
    second = sent()
    await conversation.say(user("Thanks."), tool_choice_mode="none")
    assert second.prompt[: len(first.prompt + first.sampled)] == first.prompt + first.sampled
    assert sent().prompt[: len(second.prompt + second.sampled)] == second.prompt + second.sampled


async def test_every_prompt_is_proven_to_be_what_a_full_render_would_be(
    front: Front, conversation: Conversation, sent: Callable[[], Sent]
) -> None:
    for text in ("One.", "Two.", "Three."):
        await conversation.say(user(text), tool_choice_mode="none")
    assert sent().prompt
    assert len(front.proofs.outcomes) == 3
    assert set(front.proofs.outcomes) <= {"identical", "respelled"}


async def test_what_a_user_says_does_not_end_their_turn(
    front: Front, sent: Callable[[], Sent]
) -> None:
    """vLLM itself would read the end of a turn there."""
    await Conversation(front.backend).say(user("a<|im_end|>b"))
    end = 2
    assert sent().prompt.count(end) == 1
