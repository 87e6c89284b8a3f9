"""Begun at one replica over one transport, continued at another over another: no model sees a difference."""

import asyncio
import json
from itertools import product
from typing import Any

import pytest

from tests.anywhere.prompts import Prompts
from tests.conformance.conversation import Conversation, Heard
from tests.replicas.clients import ROWS, talking
from tests.replicas.fleet import Fleet
from turnwire import json_codec

pytestmark = pytest.mark.asyncio(loop_scope="module")

_SETTINGS: dict[str, Any] = {"model": "tiny", "max_output_tokens": 6, "temperature": 0}
_PAIRS = list(product(ROWS, ROWS))


async def begin(chat: Conversation) -> list[Heard]:
    """Have two turns; return them."""
    first = await chat.ask("Seven it is.", store=True, **_SETTINGS)
    second = await chat.ask("And eight.", previous_response_id=first.id, **_SETTINGS)
    return [first, second]


async def expect_continued(
    chat: Conversation, turns: list[Heard], told: Prompts, question: str = "Which is it?"
) -> None:
    """Continue a conversation: the model is to be told what it is told when all of it is sent anew."""
    await chat.ask(question, previous_response_id=turns[-1].id, **_SETTINGS)
    continued = told.last()
    await chat.ask(input=_retold(turns, question), store=False, **_SETTINGS)
    assert continued == told.last()
    assert len(continued) > len(question)


@pytest.mark.parametrize(("begun", "continued"), _PAIRS)
async def test_a_conversation_goes_on_at_its_replica(
    real: Fleet, prompts: Prompts, begun: str, continued: str
) -> None:
    async with talking(begun, real.here.address) as chat:
        turns = await begin(chat)
    async with talking(continued, real.here.address) as chat:
        await expect_continued(chat, turns, prompts)


@pytest.mark.parametrize(("begun", "continued"), _PAIRS)
async def test_a_conversation_goes_on_at_another_replica(
    real: Fleet, prompts: Prompts, begun: str, continued: str
) -> None:
    async with talking(begun, real.here.address) as chat:
        turns = await begin(chat)
    async with talking(continued, real.there.address) as chat:
        await expect_continued(chat, turns, prompts)


async def test_every_conversation_goes_on_when_all_replicas_were_restarted(
    real: Fleet, prompts: Prompts
) -> None:
    begun = {}
    for transport in ROWS:
        async with talking(transport, real.here.address) as chat:
            begun[transport] = await begin(chat)
    await real.restart()
    for transport, continued in _PAIRS:
        async with talking(continued, real.there.address) as chat:
            await expect_continued(chat, begun[transport], prompts, f"{transport}, {continued}?")


@pytest.mark.parametrize(("begun", "continued"), _PAIRS)
async def test_a_conversation_goes_on_wherever_envoy_takes_it(
    real: Fleet, prompts: Prompts, begun: str, continued: str
) -> None:
    turns = []
    async with talking(begun, real.address) as chat:
        turns = await begin(chat)
    for number in range(4):
        async with talking(continued, real.address, f"elsewhere-{number}") as chat:
            await expect_continued(chat, turns, prompts, f"Once more: {number}?")


async def test_a_conversation_that_wanders_at_every_turn_is_told_whole(
    real: Fleet, prompts: Prompts
) -> None:
    turns: list[Heard] = []
    for number, transport in enumerate([*ROWS, *ROWS, *ROWS]):
        replica = real.replicas[number % 2]
        more = {"previous_response_id": turns[-1].id} if turns else {}
        async with talking(transport, replica.address) as chat:
            turns.append(await chat.ask(f"Turn {number}.", **more, **_SETTINGS))
    async with talking("http", real.here.address) as chat:
        again = [_message(f"Turn {number}.") for number in range(len(turns))]
        whole = [
            item for said, turn in zip(again, turns, strict=True) for item in (said, *_out(turn))
        ]
        await chat.ask("Whole?", previous_response_id=turns[-1].id, **_SETTINGS)
        continued = prompts.last()
        await chat.ask(input=[*whole, _message("Whole?")], store=False, **_SETTINGS)
    assert continued == prompts.last()


async def test_two_forks_at_once_on_two_replicas_both_succeed(
    real: Fleet, prompts: Prompts
) -> None:
    async with talking("websocket", real.here.address) as chat:
        turns = await begin(chat)

    async def fork(number: int) -> Heard:
        replica, transport = real.replicas[number % 2], list(ROWS)[number % 3]
        async with talking(transport, replica.address) as chat:
            return await chat.ask(f"Fork {number}.", previous_response_id=turns[-1].id, **_SETTINGS)

    forks = await asyncio.gather(*map(fork, range(6)))
    assert {fork.kinds[-1] for fork in forks} <= {"completed", "incomplete"}
    for number, heard in enumerate(forks):
        async with talking("grpc", real.replicas[1 - number % 2].address) as chat:
            await chat.ask("On.", previous_response_id=heard.id, **_SETTINGS)
            continued = prompts.last()
            told = [*_retold(turns, f"Fork {number}."), *_out(heard), _message("On.")]
            await chat.ask(input=told, store=False, **_SETTINGS)
            assert continued == prompts.last()


def _retold(turns: list[Heard], question: str) -> list[dict[str, Any]]:
    first, second = turns
    said = [_message("Seven it is."), *_out(first), _message("And eight."), *_out(second)]
    return [*said, _message(question)]


def _out(turn: Heard) -> list[dict[str, Any]]:
    return [json.loads(json_codec.encode(item)) for item in turn.response.output]


def _message(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}
