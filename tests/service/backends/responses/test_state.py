"""What the upstream keeps of a conversation, and what happens when it does not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from typing import Literal

import httpx
import pytest

from service.backends.http import Deadlines
from service.backends.responses.backend import Responses
from service.backends.responses.terms import Terms
from service.conversation import Segment
from service.errors import Unavailable
from tests.service.backends.llama_cpp.conversing import Items, user
from tests.service.backends.responses.chatting import Chat, named, text
from tests.service.backends.responses.conftest import Upstream

DEADLINES = Deadlines(connect=5, slot=5, answer=10, read=10)
STORED = Terms(state="stored")
CONNECTION = Terms(transport="websocket", state="connection")
KEEPING = [STORED, replace(STORED, transport="websocket"), CONNECTION]
FORGETTING = [Terms(), Terms(transport="websocket")]
LONG = user("x" * 5000)
SHORT = user("#sim text 2")
MUCH = 6500
"""More bytes than a request that says LONG once."""


@asynccontextmanager
async def adapter(upstream: Upstream, terms: Terms) -> AsyncIterator[Responses]:
    backend = Responses(upstream.url, upstream.key, terms=terms, deadlines=DEADLINES)
    await backend.start()
    yield backend
    await backend.stop()


async def sent(upstream: Upstream, chat: Chat) -> int:
    """Take a turn; return the bytes that went up."""
    before = upstream.wire.passed["request"]
    await chat.say(LONG, SHORT)
    return upstream.wire.passed["request"] - before


@pytest.mark.parametrize("terms", KEEPING, ids=named)
async def test_only_what_is_new_goes_up(upstream: Upstream, terms: Terms) -> None:
    async with adapter(upstream, terms) as backend:
        chat = Chat(backend, settings={"store": True})
        assert max([await sent(upstream, chat) for _ in range(4)]) < MUCH
        assert text(await chat.say(user("#sim history"))) == "13"


@pytest.mark.parametrize("terms", FORGETTING, ids=named)
async def test_all_of_it_goes_up_where_nothing_is_kept(upstream: Upstream, terms: Terms) -> None:
    async with adapter(upstream, terms) as backend:
        chat = Chat(backend, settings={"store": True})
        lengths = [await sent(upstream, chat) for _ in range(3)]
        assert lengths[2] - lengths[1] > 5000


async def test_history_is_serialised_once(upstream: Upstream) -> None:
    async with adapter(upstream, Terms()) as backend:
        chat = Chat(backend)
        for _ in range(2):
            await chat.say(SHORT)

        def never(_items: Items) -> Items:
            raise AssertionError("old items were read again")

        asked = replace(chat.prompt(user("#sim history")), legible=never)
        async with aclosing(backend.generate(asked)) as batches:
            assert [batch async for batch in batches]


async def test_what_is_not_to_be_stored_is_not_continued_upstream(upstream: Upstream) -> None:
    async with adapter(upstream, STORED) as backend:
        for settings in ({"store": False}, {}):
            chat = Chat(backend, settings=settings)
            lengths = [await sent(upstream, chat) for _ in range(2)]
            assert lengths[1] - lengths[0] > 5000
            assert upstream_id(chat) is None


@pytest.mark.parametrize("transport", ["http", "websocket"])
async def test_a_response_that_was_lost_upstream_is_told_again_whole(
    upstream: Upstream, transport: Literal["http", "websocket"]
) -> None:
    async with adapter(upstream, Terms(transport=transport, state="stored")) as backend:
        chat = Chat(backend, settings={"store": True})
        await chat.say(LONG, SHORT)
        await forget(upstream, upstream_id(chat))
        assert await sent(upstream, chat) > 10_000
        assert text(await chat.say(user("#sim history"))) == "7"
        assert await sent(upstream, chat) < MUCH


@pytest.mark.parametrize("terms", [CONNECTION, Terms(transport="websocket")], ids=named)
async def test_a_lost_connection_is_replaced_and_told_all(upstream: Upstream, terms: Terms) -> None:
    async with adapter(upstream, terms) as backend:
        chat = Chat(backend, settings={"store": False})
        await chat.say(LONG, SHORT)
        connections = upstream.wire.connections
        upstream.wire.pull()
        assert await sent(upstream, chat) > 10_000
        assert upstream.wire.connections == connections + 1
        assert text(await chat.say(user("#sim history"))) == "7"


async def test_a_conversation_that_is_kept_nowhere_is_not_stored_for_it(upstream: Upstream) -> None:
    async with adapter(upstream, CONNECTION) as backend:
        chat = Chat(backend, settings={"store": True})
        await chat.say(SHORT)
        identity = upstream_id(chat)
        async with httpx.AsyncClient(headers=upstream.headers) as client:
            found = await client.get(f"{upstream.url}/v1/responses/{identity}")
        assert found.status_code == 404


async def test_a_fork_has_a_connection_of_its_own(upstream: Upstream) -> None:
    async with adapter(upstream, CONNECTION) as backend:
        chat = Chat(backend, settings={"store": False})
        await chat.say(LONG, SHORT)
        fork = chat.fork()
        connections = upstream.wire.connections
        assert await sent(upstream, chat) < MUCH
        assert await sent(upstream, fork) > 10_000
        assert [await sent(upstream, one) < MUCH for one in (chat, fork)] == [True, True]
        assert upstream.wire.connections == connections + 1


async def test_forks_may_run_side_by_side(upstream: Upstream) -> None:
    async with adapter(upstream, CONNECTION) as backend:
        chat = Chat(backend, settings={"store": False})
        await chat.say(SHORT)
        forks = [chat, *(chat.fork() for _ in range(3))]
        said = await asyncio.gather(*(one.say(user("#sim history")) for one in forks))
        assert list(map(text, said)) == ["3"] * 4


async def test_tenants_never_share_a_connection(upstream: Upstream) -> None:
    terms = Terms(transport="websocket")
    async with adapter(upstream, terms) as backend:
        connections = upstream.wire.connections
        for tenant in ("one", "two", "one", "two"):
            await Chat(backend, tenant=tenant).say(SHORT)
        assert upstream.wire.connections == connections + 2


async def test_the_connection_that_was_used_longest_ago_makes_room(upstream: Upstream) -> None:
    async with adapter(upstream, replace(CONNECTION, connections=2)) as backend:
        first, second, third = (Chat(backend, settings={"store": False}) for _ in range(3))
        for chat in (first, second, first, third):
            await chat.say(LONG, SHORT)
        assert await sent(upstream, first) < MUCH
        assert await sent(upstream, second) > 10_000


async def test_a_connection_does_not_become_old(upstream: Upstream) -> None:
    async with adapter(upstream, replace(CONNECTION, age_seconds=0.0)) as backend:
        chat = Chat(backend, settings={"store": False})
        await chat.say(LONG, SHORT)
        assert await sent(upstream, chat) > 10_000


async def test_an_idle_connection_is_closed(upstream: Upstream) -> None:
    async with adapter(upstream, replace(CONNECTION, idle_seconds=0.0)) as backend:
        before = upstream.wire.open
        chat = Chat(backend, settings={"store": False})
        await chat.say(LONG, SHORT)
        async with asyncio.timeout(5):
            while upstream.wire.open > before:
                await asyncio.sleep(0)
        assert await sent(upstream, chat) > 10_000


async def test_who_waits_for_a_connection_too_long_is_told_to_come_back(upstream: Upstream) -> None:
    terms = replace(CONNECTION, connections=1)
    impatient = replace(DEADLINES, slot=0.01)
    backend = Responses(upstream.url, upstream.key, terms=terms, deadlines=impatient)
    busy = backend.generate(Chat(backend).prompt(user("#sim text 1 ; stall 60")))
    async with aclosing(busy):
        await anext(busy)
        with pytest.raises(Unavailable) as failed:
            await Chat(backend).say(SHORT)
    assert failed.value.code == "rate_limit_exceeded"
    await Chat(backend).say(SHORT)
    await backend.stop()


async def test_a_warm_up_can_be_continued(upstream: Upstream) -> None:
    async with adapter(upstream, CONNECTION) as backend:
        chat = Chat(backend, settings={"store": False})
        rendered = await backend.prepare(chat.prompt(LONG))
        chat.history.append(Segment(None, [LONG], rendered))
        assert await sent(upstream, chat) < MUCH
        assert text(await chat.say(user("#sim history"))) == "5"


async def test_a_warm_up_over_http_is_rendered(upstream: Upstream) -> None:
    async with adapter(upstream, STORED) as backend:
        chat = Chat(backend, settings={"store": True})
        rendered = await backend.prepare(chat.prompt(LONG))
        chat.history.append(Segment(None, [LONG], rendered))
        assert await sent(upstream, chat) > 10_000


def upstream_id(chat: Chat) -> str | None:
    assert isinstance(chat.backend, Responses)
    made = chat.backend.dialect(chat.model).made(chat.history[-1])
    return made.response_id if made else None


async def forget(upstream: Upstream, identity: str | None) -> None:
    async with httpx.AsyncClient(headers=upstream.headers) as client:
        deleted = await client.delete(f"{upstream.url}/v1/responses/{identity}")
    assert deleted.status_code == 200
