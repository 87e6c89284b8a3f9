"""Turns that are given up, many at once, servers that are gone: nothing stays behind.

What the fixture sees of it, it sees in every test: connections, tasks, and work of the real server.
"""

import asyncio
from contextlib import aclosing, suppress

import pytest

from service.conversation import Segment
from service.errors import ModelError, Unavailable
from tests.adapters.front import PATIENT, WORDS, Front, outcome
from tests.adapters.servers import Address
from tests.adapters.wire import WAIT
from tests.service.backends.llama_cpp.conversing import user
from tests.service.backends.responses.chatting import text

MANY = 20


@pytest.mark.parametrize("batches", [1, 4])
async def test_closing_stops_the_server_after_any_batch(adapter: Front, batches: int) -> None:
    async with aclosing(adapter.backend.generate(adapter.endless())) as generated:
        for _ in range(batches):
            assert await anext(generated)
        await adapter.until_working(1)
    await adapter.until_working(0)
    assert text(await adapter.chat().say(user(WORDS)))


async def test_cancelling_before_the_first_batch_stops_the_server(adapter: Front) -> None:
    turn = asyncio.ensure_future(outcome(adapter.backend, adapter.endless()))
    await adapter.until_working(1)
    turn.cancel()
    with suppress(asyncio.CancelledError):
        await turn
    await adapter.until_working(0)
    assert text(await adapter.chat().say(user(WORDS)))


async def test_what_is_never_begun_is_nothing(adapter: Front) -> None:
    await adapter.backend.generate(adapter.endless()).aclose()
    assert text(await adapter.chat().say(user(WORDS)))


async def test_given_up_time_and_again_it_still_answers(adapter: Front) -> None:
    for _ in range(6):
        async with aclosing(adapter.backend.generate(adapter.endless())) as generated:
            await anext(generated)
    two = [adapter.chat(max_output_tokens=4).say(user(WORDS)) for _ in range(3)]
    assert all(await asyncio.gather(*two))


async def test_many_turns_at_once_are_not_mixed_up(adapter: Front) -> None:
    chats = [adapter.chat(max_output_tokens=4) for _ in range(MANY)]
    says = [chat.say(user("x" * 8 * number)) for number, chat in enumerate(chats, 1)]
    await asyncio.gather(*says)
    inputs = [chat.finished.input_tokens for chat in chats if chat.finished]
    assert len(inputs) == MANY
    assert inputs == sorted(set(inputs))


async def test_it_says_that_it_is_well(adapter: Front) -> None:
    assert adapter.backend.models
    await adapter.backend.check()


async def test_a_warm_up_is_a_part_of_the_conversation(adapter: Front) -> None:
    chat = adapter.chat()
    warm = chat.prompt(user("This is warm. " * 10))
    chat.history = [Segment(None, warm.input, await adapter.backend.prepare(warm))]
    assert text(await chat.say(user("Go on.")))
    adapter.expect_told("This is warm.", 10)


@pytest.mark.asks("wires")
async def test_a_server_that_is_gone_is_told_of(adapter: Front) -> None:
    await adapter.wire.leave()
    with pytest.raises(Unavailable) as caught:
        await adapter.chat().say(user(WORDS))
    assert caught.value.code == "server_error"
    assert "127.0.0.1" not in caught.value.message


@pytest.mark.asks("checks", "wires")
async def test_a_server_that_is_gone_is_not_well(adapter: Front) -> None:
    await adapter.wire.leave()
    with pytest.raises(ModelError):
        await adapter.backend.check()


@pytest.mark.asks("wires")
async def test_a_server_that_is_not_there_is_told_of_at_the_start(adapter: Front) -> None:
    await adapter.wire.leave()
    address = Address(adapter.wire.url, adapter.address.key)
    backend = adapter.row.make(address, PATIENT, adapter.scene)
    async with asyncio.timeout(WAIT):
        with pytest.raises(ModelError, match="cannot be reached"):
            await backend.start()
    await backend.stop()


@pytest.mark.asks("keys")
async def test_a_key_that_is_refused_is_told_of_at_the_start(adapter: Front) -> None:
    address = Address(adapter.wire.url, "wrong-key")
    backend = adapter.row.make(address, PATIENT, adapter.scene)
    with pytest.raises(ModelError, match="API key") as caught:
        await backend.start()
    assert "wrong-key" not in caught.value.message
    await backend.stop()
