"""What the port says to clients that do not ask for a WebSocket, or do not ask at all."""

import asyncio
import contextlib
import json
import socket

import httpx
import pytest

from service.errors import Unauthenticated
from service.keys import Anonymous
from service.limits import Limits
from tests.transports.conftest import Served
from tests.transports.scripted import RawClient, ScriptedEngine, handshake
from transports.http import Address, serve


@pytest.fixture
def url(served: Served) -> str:
    return f"http://127.0.0.1:{served.port}"


async def test_a_plain_get_is_told_to_upgrade(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for path in ("/v1/responses", "/responses"):
            answer = await client.get(path)
            assert answer.status_code == 426
            assert answer.headers["Upgrade"] == "websocket"
            assert answer.json()["error"]["code"] == "upgrade_required"


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/v1/responses"), ("GET", "/"), ("GET", "/v1/responses/"), ("POST", "/v1/x")],
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


async def test_a_post_is_told_to_use_the_websocket(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        answer = await client.post("/v1/responses", json={"model": "m"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_transport"


class NoKeyWillDo:
    def tenant_of(self, authorization: str | None) -> str:
        raise Unauthenticated


@pytest.mark.parametrize("keys", [NoKeyWillDo()])
async def test_a_post_without_a_key_is_told_so_first(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        answer = await client.post("/v1/responses", json={"model": "m"})
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_a_websocket_may_follow_a_request_on_its_connection(served: Served) -> None:
    client = await RawClient.connect(served.port)
    client.writer.write(b"GET /v1/responses HTTP/1.1\r\nHost: x\r\n\r\n")
    head = await client.head()
    length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
    await client.skip(length)
    client.writer.write(handshake())
    assert (await client.head()).startswith("HTTP/1.1 101 ")
    await client.close()


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


async def test_an_address_that_is_taken_is_an_error_and_not_an_exit(served: Served) -> None:
    with pytest.raises(OSError, match="in use"):
        await serve(ScriptedEngine().port, Anonymous(), Limits(), Address("127.0.0.1", served.port))


async def test_after_stopping_nobody_is_let_in() -> None:
    server = await serve(ScriptedEngine().port, Anonymous(), Limits(), Address("127.0.0.1", 0))
    async with asyncio.timeout(5):
        await server.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
