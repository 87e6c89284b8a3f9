"""The two transports as clients of one shape, which counts what crosses the wire.

Bytes are those of messages, without the few that each transport adds to frame one.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol, TypeAlias

import grpc
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from turnwire import json_codec
from turnwire.v1 import events_pb2, session_service_pb2, session_service_pb2_grpc

_CONNECT_SECONDS = 5.0
_Call: TypeAlias = grpc.aio.StreamStreamCall[
    session_service_pb2.ConnectRequest, session_service_pb2.ConnectResponse
]


class Disconnected(Exception):
    """A connection could not be made, or has ended. Says where to and why."""


class Client(Protocol):
    """One connection to a server."""

    bytes_sent: int
    bytes_received: int

    async def send(self, event: events_pb2.ClientEvent) -> None:
        """Send an event. Raises `Disconnected`."""

    async def receive(self) -> events_pb2.ServerEvent:
        """Wait for the next event. Raises `Disconnected`."""

    def size_of(self, event: events_pb2.ClientEvent) -> int:
        """Return how many bytes it would take to send an event."""

    async def close(self) -> None:
        """Leave."""


class WebSocketClient:
    """A connection that carries JSON in text frames."""

    def __init__(self, connection: ClientConnection, url: str) -> None:
        self.bytes_sent = self.bytes_received = 0
        self._connection = connection
        self._url = url

    @classmethod
    @asynccontextmanager
    async def connect(cls, url: str, api_key: str | None) -> AsyncIterator["WebSocketClient"]:
        """Connect for as long as the context lasts. Raises `Disconnected`."""
        with _ending_as_disconnected(url):
            connection = await connect(
                url,
                additional_headers=dict(_authorization(api_key)),
                compression=None,
                proxy=None,
                max_size=None,
                open_timeout=_CONNECT_SECONDS,
            )
        client = cls(connection, url)
        try:
            yield client
        finally:
            await client.close()

    async def send(self, event: events_pb2.ClientEvent) -> None:
        """Send an event. Raises `Disconnected`."""
        frame = json_codec.encode(event)
        with _ending_as_disconnected(self._url):
            await self._connection.send(frame, text=True)
        self.bytes_sent += len(frame)

    async def receive(self) -> events_pb2.ServerEvent:
        """Wait for the next event. Raises `Disconnected`."""
        with _ending_as_disconnected(self._url):
            frame = await self._connection.recv(decode=False)
        self.bytes_received += len(frame)
        return json_codec.decode(events_pb2.ServerEvent, frame)

    def size_of(self, event: events_pb2.ClientEvent) -> int:
        """Return how many bytes it would take to send an event."""
        return len(json_codec.encode(event))

    async def close(self) -> None:
        """Leave."""
        await self._connection.close()


class GrpcClient:
    """A bidirectional stream that carries events in batches."""

    def __init__(self, call: _Call, target: str) -> None:
        self.bytes_sent = self.bytes_received = 0
        self._call = call
        self._target = target
        self._events: deque[events_pb2.ServerEvent] = deque()

    @classmethod
    @asynccontextmanager
    async def connect(cls, target: str, api_key: str | None) -> AsyncIterator["GrpcClient"]:
        """Connect for as long as the context lasts. Raises `Disconnected`."""
        options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(target, options=options) as channel:
            stub = session_service_pb2_grpc.SessionServiceStub(channel)
            call = stub.Connect(metadata=_authorization(api_key))
            client = cls(call, target)
            try:
                with _ending_as_disconnected(target):
                    await call.wait_for_connection()
                yield client
            finally:
                await client.close()

    async def send(self, event: events_pb2.ClientEvent) -> None:
        """Send an event. Raises `Disconnected`."""
        request = session_service_pb2.ConnectRequest(events=[event])
        with _ending_as_disconnected(self._target):
            await self._call.write(request)
        self.bytes_sent += request.ByteSize()

    async def receive(self) -> events_pb2.ServerEvent:
        """Wait for the next event, past signs of life. Raises `Disconnected`."""
        while not self._events:
            with _ending_as_disconnected(self._target):
                response = await self._call.read()
            if not isinstance(response, session_service_pb2.ConnectResponse):
                raise Disconnected(f"{self._target} ended the stream.")
            self.bytes_received += response.ByteSize()
            self._events.extend(response.events)
        return self._events.popleft()

    def size_of(self, event: events_pb2.ClientEvent) -> int:
        """Return how many bytes it would take to send an event."""
        return session_service_pb2.ConnectRequest(events=[event]).ByteSize()

    async def close(self) -> None:
        """Leave."""
        self._call.cancel()


def _authorization(api_key: str | None) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {api_key}"),) if api_key else ()


@contextmanager
def _ending_as_disconnected(target: str) -> Iterator[None]:
    """Say what each library raises in one way."""
    try:
        yield
    except InvalidStatus as error:
        reason = f"refused the connection: HTTP {error.response.status_code}"
        raise Disconnected(f"{target} {reason}.") from error
    except ConnectionClosed as error:
        raise Disconnected(f"{target} closed the connection: {error}.") from error
    except grpc.aio.AioRpcError as error:
        reason = f"{error.code().name}, {error.details()}"
        raise Disconnected(f"The call to {target} ended: {reason}") from error
    except asyncio.InvalidStateError as error:
        raise Disconnected(f"The call to {target} has ended.") from error
    except (OSError, WebSocketException) as error:
        raise Disconnected(f"Nothing answers at {target}: {error}.") from error
