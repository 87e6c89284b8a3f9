"""Turns that do not come to their end: stopped by us, or by a wire that breaks."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress

import pytest

from service.backends import Finished, Produced, Text
from service.backends.http import Deadlines
from service.backends.responses.backend import Responses
from service.backends.responses.terms import Terms
from service.errors import ModelError, Unavailable
from tests.service.backends.llama_cpp.conversing import user
from tests.service.backends.responses.chatting import Chat, text
from tests.service.backends.responses.conftest import Upstream
from tests.stand_ins.cut import How, Way, cut

DEADLINES = Deadlines(connect=5, slot=5, answer=10, read=10)
TERMS = {
    "http": Terms(),
    "websocket": Terms(transport="websocket", state="connection"),
}


@pytest.fixture(params=TERMS)
def terms(request: pytest.FixtureRequest) -> Terms:
    return TERMS[request.param]


@pytest.fixture
async def backend(upstream: Upstream, terms: Terms) -> AsyncIterator[Responses]:
    started = Responses(upstream.url, upstream.key, terms=terms, deadlines=DEADLINES)
    yield started
    await started.stop()


async def until_idle(upstream: Upstream) -> None:
    async with asyncio.timeout(5):
        while upstream.simulator.running:
            await asyncio.sleep(0)


async def test_closing_stops_the_upstream(upstream: Upstream, backend: Responses) -> None:
    chat = Chat(backend, settings={"store": False})
    async with aclosing(backend.generate(chat.prompt(user("#sim text 3 ; stall 60")))) as batches:
        await anext(batches)
        assert upstream.simulator.running == 1
    await until_idle(upstream)
    assert upstream.simulator.cancelled == 1
    assert text(await chat.say(user("#sim history"))) == "1"


async def test_cancelling_before_the_first_word_stops_the_upstream(
    upstream: Upstream, backend: Responses
) -> None:
    chat = Chat(backend, settings={"store": False})
    waiting = asyncio.ensure_future(chat.say(user("#sim stall 60")))
    async with asyncio.timeout(5):
        while not upstream.simulator.running:
            await asyncio.sleep(0)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    await until_idle(upstream)
    assert upstream.simulator.cancelled == 1


async def test_a_turn_that_is_stopped_does_not_become_history(backend: Responses) -> None:
    chat = Chat(backend, settings={"store": False})
    await chat.say(user("one"))
    async with aclosing(backend.generate(chat.prompt(user("#sim text 2 ; stall 60")))) as batches:
        await anext(batches)
    assert text(await chat.say(user("#sim history"))) == "3"


@pytest.mark.parametrize("after", [0, 1, 300, 1500, 2500])
@pytest.mark.parametrize("way", ["answer", "request"])
async def test_a_wire_that_breaks_is_a_failure_and_no_more(
    upstream: Upstream, terms: Terms, after: int, way: Way
) -> None:
    async with cut(upstream.url, after, way) as wire:
        backend = Responses(wire.url, upstream.key, terms=terms, deadlines=DEADLINES)
        chat = Chat(backend, settings={"store": False})
        long = user("x" * 3000)
        with pytest.raises(Unavailable) as failed:
            await chat.say(long, user("#sim text 60"))
        assert failed.value.code == "server_error"
        wire.heal()
        assert text(await chat.say(user("#sim history"))) == "1"
        await backend.stop()
    await until_idle(upstream)


async def test_what_was_said_before_a_wire_broke_is_not_said_again(
    upstream: Upstream, backend: Responses
) -> None:
    chat = Chat(backend, settings={"store": False})
    await chat.say(user("one"))
    said: list[Produced] = []

    async def hear() -> None:
        asked = chat.prompt(user("#sim text 2 ; stall 60"))
        async with aclosing(backend.generate(asked)) as batches:
            async for batch in batches:
                said.extend(batch)
                upstream.wire.pull()

    with pytest.raises(Unavailable):
        await hear()
    assert "".join(piece.text for piece in said if isinstance(piece, Text)) == "every turn"
    await until_idle(upstream)


@pytest.mark.parametrize("after", [0, 400, 1500])
async def test_a_wire_that_falls_silent_is_given_up(
    upstream: Upstream, terms: Terms, after: int
) -> None:
    how: How = "silence"
    async with cut(upstream.url, after, how=how) as wire:
        hurried = Deadlines(connect=0.2, slot=1, answer=0.2, read=0.2)
        backend = Responses(wire.url, upstream.key, terms=terms, deadlines=hurried)
        with pytest.raises(ModelError) as failed:
            await Chat(backend).say(user("#sim text 60"))
        assert failed.value.code == "server_error"
        await backend.stop()
    await until_idle(upstream)


async def test_an_upstream_that_is_not_there_is_unavailable(terms: Terms) -> None:
    backend = Responses("http://127.0.0.1:9", terms=terms, deadlines=DEADLINES)
    with pytest.raises(Unavailable):
        await Chat(backend).say(user("hello"))
    with pytest.raises(Unavailable):
        await backend.check()


async def test_an_upstream_is_read_no_faster_than_its_words_are_taken(
    upstream: Upstream, backend: Responses
) -> None:
    chat = Chat(backend, settings={"store": False})
    asked = chat.prompt(user("#sim text 60000"), max_output_tokens=100_000)
    async with aclosing(backend.generate(asked)) as batches:
        first = await anext(batches)
        assert not isinstance(first[-1], Finished)
        passed = -1
        async with asyncio.timeout(10):
            while passed != upstream.wire.passed["answer"]:
                passed = upstream.wire.passed["answer"]
                await asyncio.sleep(0.1)
        pieces = len(first) + sum([len(batch) async for batch in batches])
    assert pieces > 60_000
    assert upstream.wire.passed["answer"] > 2 * passed
