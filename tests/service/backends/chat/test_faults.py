"""What goes wrong on the way: plugs pulled, servers that stall, clients that leave or read slowly."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from service.backends import Text
from service.backends.chat.backend import ChatCompletions
from service.backends.chat.server import ChatServer
from service.backends.http import Deadlines
from service.errors import ModelError, Unavailable
from tests.llama_servers import LlamaAddress
from tests.service.backends.chat.conftest import Pair, delta, events, stand_in
from tests.service.backends.chat.conversing import converse, prompt
from tests.service.backends.llama_cpp.conversing import user
from tests.stand_ins.chat_server import MODEL, VLLM, Canned
from tests.stand_ins.cut import cut

ANSWER = events(delta(content="a"), delta(content="b"), delta("stop"), "[DONE]")
ASKED = prompt(user("hello"))


@pytest.fixture
async def pair(llama_address: LlamaAddress) -> AsyncIterator[Pair]:
    async with stand_in(VLLM, llama_address, None) as pair:
        yield pair


async def test_connections_are_kept(pair: Pair) -> None:
    before = pair.server.connections
    for _ in range(3):
        await converse(pair.backend, ASKED)
    assert pair.server.connections == before


async def test_events_of_one_read_come_as_one_batch(pair: Pair) -> None:
    pair.server.canned.append(Canned(ANSWER))
    turn = await converse(pair.backend, ASKED)
    assert turn.batches[0] == [Text("a"), Text("b")]


async def test_what_has_come_is_not_held_back(pair: Pair) -> None:
    go_on = asyncio.Event()
    pair.server.canned.append(Canned(events(delta(content="a")), go_on=go_on))
    batches = pair.backend.generate(ASKED)
    assert await anext(batches) == [Text("a")]
    go_on.set()
    with pytest.raises(Unavailable, match="broke off"):
        await anext(batches)


async def test_closing_leaves_at_once(pair: Pair) -> None:
    pair.server.canned.append(Canned(events(delta(content="a")), go_on=asyncio.Event()))
    batches = pair.backend.generate(ASKED)
    await anext(batches)
    await batches.aclose()
    async with asyncio.timeout(2):
        await pair.server.abandoned.wait()


async def test_cancelling_before_the_first_token_leaves_at_once(pair: Pair) -> None:
    pair.server.canned.append(Canned(b": wait\n\n", go_on=asyncio.Event()))
    turn = asyncio.ensure_future(converse(pair.backend, ASKED))
    async with asyncio.timeout(2):
        while not pair.server.asked:
            await asyncio.sleep(0)
        turn.cancel()
        await pair.server.abandoned.wait()
    with pytest.raises(asyncio.CancelledError):
        await turn


@pytest.mark.parametrize("said", [b"", b": alive\n\n", events(delta(content="a"))])
async def test_a_server_that_stalls_is_given_up(llama_address: LlamaAddress, said: bytes) -> None:
    deadlines = Deadlines(connect=2, answer=0.1, read=0.1)
    async with stand_in(VLLM, llama_address, None, deadlines=deadlines) as pair:
        pair.server.canned.append(Canned(said, go_on=asyncio.Event()))
        with pytest.raises(ModelError, match="in time"):
            await converse(pair.backend, ASKED)


async def test_a_server_may_take_longer_to_begin_than_to_go_on(
    llama_address: LlamaAddress,
) -> None:
    deadlines = Deadlines(connect=2, answer=5, read=0.05)
    async with stand_in(VLLM, llama_address, None, deadlines=deadlines) as pair:
        go_on = asyncio.Event()
        pair.server.canned.append(Canned(b": alive\n\n", go_on=go_on))
        asyncio.get_running_loop().call_later(0.2, go_on.set)
        with pytest.raises(Unavailable, match="broke off"):
            await converse(pair.backend, ASKED)


async def test_a_stream_that_has_said_all_but_does_not_end_is_an_answer(pair: Pair) -> None:
    pair.server.canned.append(Canned(ANSWER, go_on=asyncio.Event()))
    async with asyncio.timeout(4):
        turn = await converse(pair.backend, ASKED)
    assert turn.text == "ab"


async def test_the_plug_may_be_pulled_at_every_byte(pair: Pair) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    whole = len(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"xx\r\n" + ANSWER)
    outcomes = set()
    for after in range(1, whole, 7):
        async with cut(pair.server.url, after) as wire:
            backend = ChatCompletions(ChatServer(url=wire.url, models=[MODEL]))
            pair.server.canned.append(Canned(ANSWER))
            outcomes.add(await outcome(backend))
            pair.server.canned.clear()
            await backend.stop()
    assert outcomes <= {
        ("", "Unavailable"),
        ("a", "Unavailable"),
        ("ab", "Unavailable"),
        ("ab", ""),
    }
    assert len(outcomes) >= 3


async def outcome(backend: ChatCompletions) -> tuple[str, str]:
    """What was said before an answer failed, and how it failed."""
    said = ""
    try:
        async for batch in backend.generate(ASKED):
            said += "".join(part.text for part in batch if isinstance(part, Text))
    except ModelError as error:
        return said, type(error).__name__
    return said, ""


async def test_a_slow_reader_is_not_read_ahead_for(pair: Pair) -> None:
    chunk = events(delta(content="x" * 10_000))
    pair.server.canned.append(Canned(chunk * 3000, go_on=asyncio.Event()))
    batches = pair.backend.generate(ASKED)
    await anext(batches)
    (writer,) = pair.server.open.values()
    transport = writer.transport
    for _ in range(200):
        await asyncio.sleep(0)
    left = transport.get_write_buffer_size()
    assert left > 10_000_000
    for _ in range(200):
        await asyncio.sleep(0)
    assert transport.get_write_buffer_size() == left
    await batches.aclose()
