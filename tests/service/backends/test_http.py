import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from service.backends.http import Deadlines, HttpClient
from service.errors import ModelError

DEADLINES = Deadlines(connect=2, read=2)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def model_server(
    script: Script, deadlines: Deadlines = DEADLINES
) -> AsyncIterator[HttpClient]:
    """Run a model server that does with each connection what the script says, then closes it."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    client = HttpClient(f"http://{host}:{port}/prefix", {"X-Key": "k"}, deadlines)
    async with server:
        yield client
        client.close()


async def asked(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


async def get(client: HttpClient) -> bytes:
    async with client.exchange("GET", "/path", [], DEADLINES.read) as answer:
        return await answer.all()


async def test_a_request_says_what_it_is() -> None:
    heard: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await asked(reader))
        heard.append(await reader.readexactly(4))
        writer.write(OK)

    async with (
        model_server(script) as client,
        client.exchange("POST", "/path", [b"ab", b"cd"], 2) as answer,
    ):
        assert (answer.status, await answer.all()) == (200, b"ok")
    assert heard[0].startswith(b"POST /prefix/path HTTP/1.1\r\n")
    assert b"X-Key: k\r\n" in heard[0]
    assert heard[1] == b"abcd"


async def test_connections_are_kept() -> None:
    connections = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(3):
            await asked(reader)
            writer.write(OK)

    async with model_server(script) as client:
        assert [await get(client) for _ in range(3)] == [b"ok"] * 3
    assert connections == 1


async def test_a_kept_connection_that_the_server_closed_is_replaced() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(OK)
        await asked(reader)

    async with model_server(script) as client:
        assert [await get(client) for _ in range(3)] == [b"ok"] * 3


async def test_what_one_read_yields_comes_as_one_piece() -> None:
    go_on = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        writer.write(head + b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n")
        await go_on.wait()
        writer.write(b"1\r\nd\r\n0\r\n\r\n")

    async with (
        model_server(script) as client,
        client.exchange("GET", "/", [], 2) as answer,
    ):
        assert await answer.read() == b"abc"
        go_on.set()
        assert (await answer.read(), await answer.read()) == (b"d", b"")


async def test_leaving_early_closes_the_socket() -> None:
    closed = asyncio.Event()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        try:
            await reader.read()
        finally:
            closed.set()

    async with model_server(script) as client:
        async with client.exchange("GET", "/", [], 2) as answer:
            assert await answer.read() == b"a"
        async with asyncio.timeout(2):
            await closed.wait()


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", b"gibberish\r\n\r\n"],
    ids=["nothing", "half", "gibberish"],
)
async def test_a_server_that_breaks_off_is_a_model_error(said: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(said)

    async with model_server(script) as client:
        with pytest.raises(ModelError, match="broke off"):
            await get(client)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], ids=["nothing", "half"]
)
async def test_a_server_that_falls_silent_is_a_model_error(said: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(said)
        await reader.read()

    async with model_server(script, Deadlines(read=0.05)) as client:
        with pytest.raises(ModelError, match="in time"):
            async with client.exchange("GET", "/", [], 0.05) as answer:
                await answer.all()


async def test_a_long_answer_arrives_whole_however_slowly_it_is_read() -> None:
    body = bytes(range(256)) * 40_000

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    async with model_server(script) as client:
        assert await get(client) == body


async def test_credentials_in_an_address_are_nobodys_business() -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = HttpClient(f"http://me:secret@127.0.0.1:{port}", {}, Deadlines())
    async with client.exchange("GET", "/", [], 5) as answered:
        assert answered.status == 200
    assert b"secret" not in heard[0]
    assert f"Host: 127.0.0.1:{port}\r\n".encode() in heard[0]
    client.close()
    server.close()


async def test_an_answer_that_nobody_asked_for_is_told_to_nobody() -> None:
    lines = 0

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal lines
        lines += 1
        while await asked(reader):
            writer.write(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nothers")

    async with model_server(script) as client:
        assert await get(client) == b"ok"
        assert await get(client) == b"ok"
    assert lines == 2


async def test_an_answer_may_be_announced() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK)
        await asked(reader)
        writer.write(OK)

    async with model_server(script) as client:
        assert await get(client) == b"ok"
        assert await get(client) == b"ok"


async def test_a_redirection_is_not_followed() -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asked(reader)
        writer.write(
            b"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"
        )

    async with (
        model_server(script) as client,
        client.exchange("GET", "/path", [], DEADLINES.read) as answer,
    ):
        assert (answer.status, await answer.all()) == (307, b"")
