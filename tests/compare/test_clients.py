import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest

from compare.clients import Client, Disconnected, GrpcClient, WebSocketClient
from tests.compare.servers import grpc_server, websocket_server
from turnwire.v1 import events_pb2, items_pb2, responses_pb2


@dataclass
class Wire:
    connect: Callable[[str, str | None], AbstractAsyncContextManager[Client]]
    serve: Callable[[list[str | None]], AbstractAsyncContextManager[str]]
    nowhere: str


WIRES = {
    "websocket": Wire(WebSocketClient.connect, websocket_server, "ws://127.0.0.1:1/v1/responses"),
    "grpc": Wire(GrpcClient.connect, grpc_server, "127.0.0.1:1"),
}


@pytest.fixture(params=WIRES)
def wire(request: Any) -> Wire:
    return WIRES[request.param]


@pytest.fixture
async def authorizations() -> list[str | None]:
    return []


@pytest.fixture
async def client(wire: Wire, authorizations: list[str | None]) -> AsyncIterator[Client]:
    async with (
        asyncio.timeout(10),
        wire.serve(authorizations) as target,
        wire.connect(target, "tw_key_secret") as connected,
    ):
        yield connected


def question() -> events_pb2.ClientEvent:
    message = items_pb2.Message(role="user", content_text="hello")
    create = responses_pb2.CreateResponse(input=[items_pb2.Item(message=message)])
    return events_pb2.ClientEvent(create=create)


async def test_a_question_is_answered_event_by_event(client: Client) -> None:
    await client.send(question())
    kinds = [(await client.receive()).WhichOneof("kind") for _ in range(3)]
    assert kinds == ["output_text_delta", "output_text_delta", "completed"]


async def test_what_crosses_the_wire_is_counted(client: Client) -> None:
    await client.send(question())
    await client.receive()
    assert client.bytes_sent == client.size_of(question())
    assert client.bytes_received > 0


async def test_the_key_is_presented(client: Client, authorizations: list[str | None]) -> None:
    await client.send(question())
    await client.receive()
    assert authorizations == ["Bearer tw_key_secret"]


async def test_a_connection_that_was_left_says_so(client: Client) -> None:
    await client.send(question())
    await client.receive()
    await client.close()
    with pytest.raises(Disconnected):
        await client.send(question())


async def test_a_server_that_goes_away_is_said_to_have_gone(wire: Wire) -> None:
    async with asyncio.timeout(10):
        async with wire.serve([]) as target:
            connecting = wire.connect(target, None)
            client = await connecting.__aenter__()
            await client.send(question())
            for _ in range(3):
                await client.receive()
        with pytest.raises(Disconnected, match=r"127\.0\.0\.1"):
            await client.receive()
        await connecting.__aexit__(None, None, None)


async def test_where_nothing_listens_the_address_is_named(wire: Wire) -> None:
    with pytest.raises(Disconnected, match=r"127\.0\.0\.1:1"):
        async with wire.connect(wire.nowhere, None):
            pass
