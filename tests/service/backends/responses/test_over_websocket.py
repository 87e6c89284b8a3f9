"""What an upstream's WebSocket may say at odd moments: a script stands in for the upstream."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from service.backends.http import Deadlines
from service.backends.responses.backend import Responses
from service.backends.responses.terms import Terms
from service.errors import ModelError, Unavailable
from tests.service.backends.llama_cpp.conversing import user
from tests.service.backends.responses.chatting import Chat, text

DEADLINES = Deadlines(connect=5, slot=5, answer=10, read=10)
CONNECTION = Terms(transport="websocket", state="connection")
LIMIT = {
    "type": "error",
    "status": 400,
    "error": {"type": "invalid_request_error", "code": "websocket_connection_limit_reached"},
}

Ask = dict[str, Any]
Script = Callable[[ServerConnection, Ask, int], Awaitable[None]]


def events(number: int) -> list[bytes]:
    told: list[Ask] = [
        {"type": "response.output_text.delta", "delta": "ok"},
        {"type": "response.output_item.done", "item": {"type": "message", "content": []}},
        {"type": "response.completed", "response": {"id": f"resp_{number}"}},
    ]
    return [json.dumps(event).encode() for event in told]


async def answer(socket: ServerConnection, number: int) -> None:
    for event in events(number):
        await socket.send(event, text=True)


@asynccontextmanager
async def scripted(script: Script, asked: list[Ask]) -> AsyncIterator[Chat]:
    """Run an upstream that answers each request as the script says, of all that it was asked."""

    async def connected(socket: ServerConnection) -> None:
        async for message in socket:
            asked.append(json.loads(message))
            await script(socket, asked[-1], len(asked))

    async with serve(connected, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        backend = Responses(f"http://127.0.0.1:{port}", terms=CONNECTION, deadlines=DEADLINES)
        yield Chat(backend, settings={"store": False})
        await backend.stop()


def continued(asked: list[Ask]) -> list[str | None]:
    return [ask.get("previous_response_id") for ask in asked]


async def test_a_connection_at_its_limit_is_replaced_without_a_word() -> None:
    async def script(socket: ServerConnection, _ask: Ask, number: int) -> None:
        if number == 2:
            await socket.send(json.dumps(LIMIT))
            await socket.close(1001)
        else:
            await answer(socket, number)

    asked: list[Ask] = []
    async with scripted(script, asked) as chat:
        for _ in range(3):
            assert text(await chat.say(user("hi"))) == "ok"
    assert continued(asked) == [None, "resp_1", None, "resp_3"]
    assert len(asked[2]["input"]) == 3


async def test_what_is_said_between_turns_ends_the_connection() -> None:
    finished, heard = asyncio.Event(), asyncio.Event()

    async def script(socket: ServerConnection, _ask: Ask, number: int) -> None:
        await answer(socket, number)
        await finished.wait()
        await socket.send(json.dumps(LIMIT))
        await (await socket.ping())
        heard.set()

    asked: list[Ask] = []
    async with scripted(script, asked) as chat:
        await chat.say(user("hi"))
        finished.set()
        await heard.wait()
        await chat.say(user("hi"))
    assert continued(asked) == [None, None]


async def test_an_upstream_that_forgets_everything_is_not_asked_for_ever() -> None:
    async def script(socket: ServerConnection, _ask: Ask, _number: int) -> None:
        await socket.send(json.dumps(LIMIT))

    asked: list[Ask] = []
    async with scripted(script, asked) as chat:
        with pytest.raises(Unavailable):
            await chat.say(user("hi"))
    assert len(asked) == 2


async def test_everything_that_one_read_yields_is_one_batch() -> None:
    async def script(socket: ServerConnection, _ask: Ask, number: int) -> None:
        for event in events(number):
            socket.protocol.send_text(event)
        socket.transport.write(b"".join(socket.protocol.data_to_send()))

    asked: list[Ask] = []
    async with scripted(script, asked) as chat:
        await chat.say(user("hi"))
    assert [len(batch) for batch in chat.batches] == [3]


async def test_a_close_in_the_middle_is_no_second_attempt() -> None:
    async def script(socket: ServerConnection, _ask: Ask, number: int) -> None:
        await socket.send(json.dumps({"type": "response.output_text.delta", "delta": "a"}))
        await socket.close(1011, "what was said")

    asked: list[Ask] = []
    async with scripted(script, asked) as chat:
        with pytest.raises(Unavailable) as failed:
            await chat.say(user("hi"))
    assert "said" not in failed.value.message
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(401, "server_error"), (429, "rate_limit_exceeded"), (503, "server_error")]
)
async def test_a_refused_handshake_is_told_by_its_status(status: int, code: str) -> None:
    def refuse(socket: ServerConnection, _request: Request) -> Response:
        return socket.respond(status, "what was said")

    async def never(_socket: ServerConnection) -> None:
        raise AssertionError

    async with serve(never, "127.0.0.1", 0, process_request=refuse) as server:
        port = server.sockets[0].getsockname()[1]
        backend = Responses(f"http://127.0.0.1:{port}", terms=CONNECTION, deadlines=DEADLINES)
        with pytest.raises(ModelError) as failed:
            await Chat(backend).say(user("hi"))
        assert failed.value.code == code
        assert "said" not in failed.value.message


async def test_leaving_closes_the_socket_at_once() -> None:
    closed = asyncio.Event()

    async def script(socket: ServerConnection, _ask: Ask, _number: int) -> None:
        await socket.send(json.dumps({"type": "response.output_text.delta", "delta": "a"}))
        try:
            await socket.recv()
        except ConnectionClosed:
            closed.set()

    asked: list[Ask] = []
    async with scripted(script, asked) as chat:
        batches = chat.backend.generate(chat.prompt(user("hi")))
        await anext(batches)
        await batches.aclose()
        async with asyncio.timeout(5):
            await closed.wait()
