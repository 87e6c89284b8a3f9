"""Clients of replicas, over every transport, by address."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import grpc
import httpx
from websockets.asyncio.client import connect

from tests.conformance.clients import Client, Grpc, Http, WebSocket, _data
from tests.conformance.conversation import TERMINAL, Conversation
from tests.replicas.envoy import CONVERSATION
from tests.replicas.replica import Address
from turnwire import json_codec
from turnwire.v1 import events_pb2
from turnwire.v1 import session_service_pb2 as rpc
from turnwire.v1 import session_service_pb2_grpc as stubs

WAIT = 30.0
"""Seconds for an answer; replicas are processes on a busy machine."""
Row = Callable[[Address, dict[str, str]], AbstractAsyncContextManager[Client]]


@asynccontextmanager
async def websocket(address: Address, headers: dict[str, str]) -> AsyncIterator[Client]:
    """Connect over a WebSocket."""
    async with connect(
        address.websocket_url,
        additional_headers=headers,
        max_size=None,
        proxy=None,
        open_timeout=WAIT,
        close_timeout=2,
    ) as connection:
        yield WebSocket(connection)


@asynccontextmanager
async def over_grpc(address: Address, headers: dict[str, str]) -> AsyncIterator[Client]:
    """Connect over gRPC."""
    async with channel_to(address) as channel:
        call = stubs.SessionServiceStub(channel).Connect(metadata=tuple(headers.items()))
        yield Grpc(call)
        call.cancel()


@asynccontextmanager
async def http(address: Address, headers: dict[str, str]) -> AsyncIterator[Client]:
    """Be ready to ask over HTTP."""
    async with api(address, headers) as client:
        row = Http(client)
        yield row
        await row.vanish()


ROWS: dict[str, Row] = {"websocket": websocket, "grpc": over_grpc, "http": http}


@asynccontextmanager
async def talking(
    transport: str, address: Address, conversation: str | None = None
) -> AsyncIterator[Conversation]:
    """Open a connection; through Envoy, to the replica that a conversation is kept at."""
    headers = {CONVERSATION: conversation} if conversation else {}
    async with ROWS[transport](address, headers) as client:
        yield Conversation(client)


async def followed_over_http(
    address: Address, response_id: str, after: int
) -> AsyncIterator[events_pb2.ServerEvent]:
    """Yield the events of a response after a number."""
    query = {"stream": "true", "starting_after": str(after)}
    async with (
        api(address) as client,
        client.stream("GET", f"/responses/{response_id}", params=query) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        async for data in _data(answer):
            yield json_codec.decode(events_pb2.ServerEvent, data)


async def followed_over_grpc(
    address: Address, response_id: str, after: int
) -> AsyncIterator[events_pb2.ServerEvent]:
    """Yield the events of a response after a number."""
    asked = rpc.FollowRequest(response_id=response_id, starting_after=after)
    async with channel_to(address) as channel:
        async for answer in stubs.SessionServiceStub(channel).Follow(asked, timeout=WAIT):
            for event in answer.events:
                yield event


async def resumed_over_websocket(
    address: Address, response_id: str, after: int
) -> AsyncIterator[events_pb2.ServerEvent]:
    """Yield the events of a response after a number."""
    resume = events_pb2.ResumeResponse(response_id=response_id, starting_after=after)
    async with websocket(address, {}) as client:
        await client.send(events_pb2.ClientEvent(resume=resume))
        while True:
            event = await client.receive()
            yield event
            if event.WhichOneof("kind") in TERMINAL:
                return


FOLLOWING = {
    "websocket": resumed_over_websocket,
    "grpc": followed_over_grpc,
    "http": followed_over_http,
}
"""How the events of a response are told again, and those to come, to who did not ask for it."""


def api(address: Address, headers: dict[str, str] | None = None) -> httpx.AsyncClient:
    """Return a client of the HTTP API."""
    return httpx.AsyncClient(
        base_url=address.http_url, headers=headers, timeout=WAIT, trust_env=False
    )


def channel_to(address: Address) -> grpc.aio.Channel:
    """Return a gRPC channel of its own: others' lost connections are not waited for."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    return grpc.aio.insecure_channel(address.grpc_target, options=options)
