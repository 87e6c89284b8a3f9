"""Model servers, recognised by what they say."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    suppress,
)
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from service.config import Config
from service.errors import ModelError
from service.serve import roster_of, running
from service.servers import Server
from service.servers.detection import PORTS, Found, detect, identified, kind_of, usual_url
from tests.service.servers.llamas import Llama, free_port

Routes = Mapping[str, Any]


def listed(*names: str, **fields: str) -> dict[str, Any]:
    return {"object": "list", "data": [{"id": name, "object": "model", **fields} for name in names]}


UNEXPECTED = {"error": "Unexpected endpoint or method."}
SERVERS: Mapping[str, Routes] = {
    "vllm": {
        "/v1/models": listed("m", owned_by="vllm", root="m"),
        "/version": {"version": "0.32.0"},
    },
    "sglang": {"/v1/models": listed("m", owned_by="sglang")},
    "trtllm": {"/v1/models": listed("m", owned_by="tensorrt_llm"), "/version": {"version": "1"}},
    "ollama": {
        "/v1/models": listed("m", owned_by="library"),
        "/api/version": {"version": "0.40.0"},
    },
    "lmstudio": {
        "/v1/models": listed("m", owned_by="organization_owner"),
        "/api/v0/models": listed("m", type="llm", state="loaded"),
        "/props": UNEXPECTED,
        "/api/version": UNEXPECTED,
    },
    "chat": {"/v1/models": listed("m", owned_by="someone"), "/v1/responses": UNEXPECTED},
}
"""What servers answer, as far as it tells them apart; from their sources and their documentation."""


Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(script: Script) -> AsyncIterator[int]:
    """Do with each connection to a free port what the script says, then close it."""
    served: set[asyncio.Task[None] | None] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.current_task())
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await script(reader, writer)
        writer.close()

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        yield port
    async with asyncio.timeout(5):
        await asyncio.gather(*filter(None, served))


def answering(routes: Routes, status: str = "200 OK") -> AbstractAsyncContextManager[int]:
    """Answer some routes on a free port, and no others."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while request := await reader.readuntil(b"\r\n\r\n"):
            route = request.split()[1].decode()
            body = json.dumps(routes.get(route, {})).encode()
            said = status if route in routes else "404 Not Found"
            head = f"HTTP/1.1 {said}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)

    return listening(script)


@pytest.mark.parametrize("kind", SERVERS)
async def test_servers_are_told_apart(kind: str) -> None:
    async with answering(SERVERS[kind]) as port:
        [found] = await detect([port])
    assert (found.kind, found.models) == (kind, ["m"])


async def test_a_real_llama_cpp_is_recognised(weights: Path) -> None:
    llama = Llama(weights)
    llama.start()
    assert await detect([llama.port]) == [Found(llama.url, "llama.cpp", ["tiny"])]
    llama.kill()


async def test_turnwire_itself_is_recognised() -> None:
    config = Config(
        backend="simulator",
        http_address="127.0.0.1:0",
        grpc_address="127.0.0.1:0",
        health_address="127.0.0.1:0",
        operations_address="127.0.0.1:0",
    )
    async with running(config, roster_of(config)) as service:
        address = urlsplit(service.http_url)
        [found] = await detect([address.port or 0])
    assert (found.kind, found.models) == ("responses-websocket", ["simulator"])


async def test_all_ports_are_looked_at_and_what_is_nothing_is_left_out() -> None:
    async def shy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await reader.readline()

    async with AsyncExitStack() as stack:
        ports = [await stack.enter_async_context(answering(SERVERS["vllm"])) for _ in range(2)]
        site = await stack.enter_async_context(answering({"/": "A web site."}))
        odd = await stack.enter_async_context(answering({"/v1/models": {"data": ["m", 3]}}))
        closed = await stack.enter_async_context(listening(shy))
        found = await detect([*ports, site, odd, closed, free_port()])
    assert [one.url for one in found] == [f"http://127.0.0.1:{port}" for port in ports]


async def test_a_server_that_does_not_answer_in_time_is_left_out() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del writer
        await reader.read()

    async with listening(silent) as port:
        assert await detect([port]) == []


async def test_a_server_without_a_kind_is_asked_for_it() -> None:
    async with answering(SERVERS["sglang"]) as port:
        named = Server(name="one", url=f"http://127.0.0.1:{port}", api_key=SecretStr("k"))
        assert (await identified(named)).kind == "sglang"
        known = Server(name="one", url=f"http://127.0.0.1:{port}", kind="vllm")
        assert await identified(known) is known


async def test_a_server_of_no_known_kind_is_said_to_be_so() -> None:
    async with answering({"/": "A web site."}) as port:
        with pytest.raises(ModelError, match="not answer like any known"):
            await identified(Server(name="one", url=f"http://127.0.0.1:{port}"))


@pytest.mark.parametrize(
    ("status", "said"),
    [("401 Unauthorized", "API key"), ("503 Service Unavailable", "status 503")],
)
async def test_a_server_that_does_not_say_what_it_is_says_why(status: str, said: str) -> None:
    async with answering(SERVERS["vllm"], status) as port:
        with pytest.raises(ModelError, match=said):
            await identified(Server(name="one", url=f"http://127.0.0.1:{port}"))


def test_nothing_is_no_server() -> None:
    assert kind_of({}) is None


def test_usual_addresses_are_on_this_machine() -> None:
    assert usual_url("ollama") == "http://127.0.0.1:11434"
    assert usual_url("openai") == ""
    assert all(usual_url(kind).startswith("http://127.0.0.1:") for kind in PORTS)
