"""The port: what is no request, does not arrive, or asks for nothing that is there."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any, Self, cast

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.identity import Anonymous
from service.limits import Limits
from tests.transports.conftest import Served
from tests.transports.scripted import RawClient, RecordingTransport, ScriptedEngine, handshake
from transports.http import Address, Port, bound_unsent, configure, serve, wheel_for


@pytest.fixture
def url(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}"


@pytest.mark.rule("HS-6")
async def test_a_plain_get_is_told_to_upgrade(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for path in ("/v1/responses", "/responses"):
            answer = await client.get(path)
            assert answer.status_code == 426
            assert answer.headers["Upgrade"] == "websocket"
            assert answer.json()["error"]["code"] == "upgrade_required"


@pytest.mark.rule("HT-5")
@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/v1"), ("GET", "/"), ("GET", "/v1/responses/"), ("POST", "/v1/x")],
)
async def test_anything_else_is_not_found_in_the_apis_shape(
    url: str, method: str, path: str
) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        answer = await client.request(method, path)
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"type", "code", "message", "param"}
    assert answer.json()["error"]["code"] == "not_found"
    assert "server" not in answer.headers


async def test_a_websocket_may_follow_a_request_on_its_connection(served: Served) -> None:
    client = await RawClient.connect(served.port)
    client.writer.write(b"GET /v1/responses HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await client.head()
    length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
    await client.skip(length)
    client.writer.write(handshake())
    assert (await client.head()).startswith("HTTP/1.1 101 ")
    await client.close()


@pytest.mark.rule("HS-3")
async def test_what_is_no_http_is_refused_in_json(served: Served) -> None:
    client = await RawClient.connect(served.port)
    client.writer.write(b"\x16\x03\x01 not http\r\n\r\n")
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert json.loads(body)["error"]["code"] == "invalid_http_request"
    await client.close()


@pytest.mark.parametrize("limits", [Limits(handshake_deadline=0.1, receive_deadline=0.1)])
@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /v1/respon",
        handshake()[:-2],
        b"POST /v1/responses HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
    ],
    ids=["nothing", "half a line", "half a handshake", "half a body"],
)
async def test_a_request_that_does_not_arrive_is_dropped(served: Served, beginning: bytes) -> None:
    client = await RawClient.connect(served.port)
    client.writer.write(beginning)
    with contextlib.suppress(ConnectionResetError):
        await client.rest()
    assert len(served.wheel) == 0
    await client.close()


async def test_an_endless_head_is_refused(served: Served) -> None:
    client = await RawClient.connect(served.port)
    client.writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 80_000)
    assert (await client.head()).startswith("HTTP/1.1 431 ")
    client.writer.transport.abort()


class Unread:
    """An answer of a megabyte whose client takes what it is given credit for: no socket, no clock."""

    DEADLINE = 10.0

    def __init__(self) -> None:
        limits = Limits(send_deadline=self.DEADLINE)
        self.wheel = wheel_for(limits)
        self.transport = RecordingTransport()
        self.transport.accepts = False
        config = configure(self._answer, Port(limits, self.wheel, lambda _: None))
        config.load()
        factory = cast("Callable[..., asyncio.Protocol]", config.http_protocol_class)
        self.protocol: Any = factory(config, ServerState(), {})
        self.answered = asyncio.Event()
        self.now = asyncio.get_running_loop().time()

    async def __aenter__(self) -> Self:
        self.protocol.connection_made(self.transport)
        self.protocol.data_received(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            await self.answered.wait()
        self.protocol.tick(self.now)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.protocol.connection_lost(ConnectionResetError())
        assert len(self.wheel) == 0

    def reads(self, size: int, at: float) -> None:
        self.transport.buffered -= size
        self.protocol.tick(self.now + at)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Response(b"x" * 1_000_000)(scope, receive, send)
        self.answered.set()


async def test_a_client_that_reads_on_is_given_time() -> None:
    async with Unread() as answer:
        for step in range(1, 15):
            answer.reads(65_536, at=step * 0.9 * answer.DEADLINE)
        assert not answer.transport.aborted


async def test_a_client_that_only_trickles_is_cut() -> None:
    async with Unread() as answer:
        for step in range(1, 10):
            answer.reads(1_000, at=step * 0.1 * answer.DEADLINE)
        assert not answer.transport.aborted
        answer.reads(1_000, at=answer.DEADLINE)
        assert answer.transport.aborted


async def test_a_client_that_has_read_everything_is_left_alone() -> None:
    async with Unread() as answer:
        answer.reads(answer.transport.buffered, at=1)
        answer.reads(0, at=2 * answer.DEADLINE)
        assert not answer.transport.aborted


async def test_an_address_that_is_taken_is_an_error_and_not_an_exit(served: Served) -> None:
    with pytest.raises(OSError, match="in use"):
        await serve(ScriptedEngine().port, Anonymous(), Limits(), Address("127.0.0.1", served.port))


async def test_after_stopping_nobody_is_let_in() -> None:
    server = await serve(ScriptedEngine().port, Anonymous(), Limits(), Address("127.0.0.1", 0))
    async with asyncio.timeout(5):
        await server.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="not on this platform")
def test_the_kernel_takes_no_megabytes_at_once_on_connections_that_are_accepted() -> None:
    """Between two such steps a slow and steady client could not be told from one that is stuck."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        bound_unsent(listener)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            option = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT)
            assert option == 128 * 1024
