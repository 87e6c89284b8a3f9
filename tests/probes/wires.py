"""Connections of one client, one question at a time: the answers as they came, to be compared.

What is different in every answer by its nature is left out: HTTP's Date and the request's id.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import grpc
import orjson
from google.protobuf.message import Message
from websockets.asyncio.client import ClientConnection, connect

from tests.probes.asking import Event, GrpcCall, HttpRequest, Request
from tests.replicas.clients import channel_to
from tests.replicas.replica import Address
from turnwire import json_codec
from turnwire.v1 import session_service_pb2 as rpc

WAIT = 30.0
"""Seconds for an answer."""
_ALWAYS_NEW = {b"date", b"x-request-id"}


class Wire(Protocol):
    """A connection."""

    async def ask(self, request: Request) -> bytes:
        """Ask, and return all of the answer."""


class HttpWire:
    """A connection that is kept alive."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str
    ) -> None:
        self._reader, self._writer, self._key = reader, writer, key

    async def ask(self, request: Request) -> bytes:
        assert isinstance(request, HttpRequest)
        self._writer.write(request.encoded(self._key))
        head = await self._reader.readuntil(b"\r\n\r\n")
        status, *lines = head.rstrip().split(b"\r\n")
        headers = dict(_header(line) for line in lines)
        if length := headers.pop(b"content-length", None):
            body = await self._reader.readexactly(int(length))
        else:
            body = await self._chunks()
        kept = [name + b": " + value for name, value in headers.items() if name not in _ALWAYS_NEW]
        return b"\n".join([status, *kept, body])

    async def _chunks(self) -> bytes:
        """Read a stream of events up to its end."""
        chunks = [b""]
        while size := int(await self._reader.readline(), 16):
            chunks.append(await self._reader.readexactly(size + 2))
        await self._reader.readline()
        return b"".join(chunks)


class WebSocketWire:
    """A WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def ask(self, request: Request) -> bytes:
        assert isinstance(request, Event)
        await self._connection.send(request.text())
        frames, over = [], False
        while not over:
            frames.append(await self._connection.recv(decode=False))
            over = request.ends_with(orjson.loads(frames[-1])["type"])
        return b"\n".join(frames)


class ConnectWire:
    """A gRPC stream."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def ask(self, request: Request) -> bytes:
        assert isinstance(request, Event)
        await self._call.write(request.message())
        told, over = [], False
        while not over:
            answer = await self._call.read()
            assert isinstance(answer, rpc.ConnectResponse), "the stream has ended"
            told += [str(event) for event in answer.events]
            kinds = [orjson.loads(json_codec.encode(event))["type"] for event in answer.events]
            over = any(map(request.ends_with, kinds))
        return "\n".join(told).encode()


class CallWire:
    """A channel for gRPC calls."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str]]) -> None:
        self._channel, self._metadata = channel, metadata

    async def ask(self, request: Request) -> bytes:
        assert isinstance(request, GrpcCall)
        try:
            return str(await self._first(request)).encode()
        except grpc.aio.AioRpcError as error:
            return told_by(error)

    async def _first(self, request: GrpcCall) -> Message | object:
        offered = self._channel.unary_stream if request.streams else self._channel.unary_unary
        call: Any = offered(
            request.method,
            request_serializer=type(request.message).SerializeToString,
            response_deserializer=request.answer.FromString,
        )(request.message, metadata=self._metadata, timeout=WAIT)
        if not request.streams:
            return await call  # type: ignore[no-any-return]
        try:
            return await call.read()  # type: ignore[no-any-return]
        finally:
            call.cancel()


def told_by(error: grpc.RpcError) -> bytes:
    """Return all that a client is told of a call that failed."""
    told: Any = error
    trailers = sorted(map(str, told.trailing_metadata() or ()))
    return "\n".join([str(told.code()), told.details() or "", *trailers]).encode()


@asynccontextmanager
async def http(address: Address, key: str) -> AsyncIterator[Wire]:
    """Connect over HTTP."""
    reader, writer = await asyncio.open_connection("127.0.0.1", address.http, limit=1 << 24)
    yield HttpWire(reader, writer, key)
    writer.close()
    await writer.wait_closed()


@asynccontextmanager
async def websocket(address: Address, key: str) -> AsyncIterator[Wire]:
    """Connect over a WebSocket."""
    async with connect(
        address.websocket_url,
        additional_headers=_authorization(key),
        max_size=None,
        proxy=None,
        compression=None,
    ) as connection:
        yield WebSocketWire(connection)


@asynccontextmanager
async def over_grpc(address: Address, key: str) -> AsyncIterator[Wire]:
    """Open a gRPC stream."""
    async with channel_to(address) as channel:
        stream = channel.stream_stream(
            "/turnwire.v1.SessionService/Connect",
            request_serializer=rpc.ConnectRequest.SerializeToString,
            response_deserializer=rpc.ConnectResponse.FromString,
        )
        call = stream(metadata=metadata(key))
        yield ConnectWire(call)
        call.cancel()


@asynccontextmanager
async def calls(address: Address, key: str) -> AsyncIterator[Wire]:
    """Open a channel for gRPC calls."""
    async with channel_to(address) as channel:
        yield CallWire(channel, metadata(key))


def metadata(key: str) -> tuple[tuple[str, str]]:
    """Return how gRPC is told a key."""
    return (("authorization", f"Bearer {key}"),)


def _authorization(key: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _header(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name.lower(), value.strip()


Open = Callable[[Address, str], AbstractAsyncContextManager[Wire]]
WIRES: Mapping[str, Open] = {
    "HTTP": http,
    "WebSocket": websocket,
    "gRPC Connect": over_grpc,
    "gRPC call": calls,
}
"""By transport."""
