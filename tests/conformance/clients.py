"""The rows: one client per transport, all of one shape."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import grpc
import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from service.connection import Connection
from service.errors import Ending, SessionError
from service.identity import Credentials
from tests.conformance.server import Server
from transports.status import STATUS, Status
from turnwire import json_codec
from turnwire.delta import Event, to_message
from turnwire.v1 import events_pb2, responses_pb2
from turnwire.v1 import session_service_pb2 as rpc
from turnwire.v1 import session_service_pb2_grpc as stubs


class Ended(Exception):
    """The server ended the connection, for one of these reasons: a wire may not tell them apart."""

    def __init__(self, endings: frozenset[Ending]) -> None:
        super().__init__(endings)
        self.endings = endings


class Client(Protocol):
    """One connection, or what comes closest where there is none."""

    async def send(self, event: events_pb2.ClientEvent) -> None: ...

    async def receive(self) -> events_pb2.ServerEvent:
        """Wait for the next event. Raises `Ended`."""

    async def vanish(self) -> None:
        """Leave without a word."""


Connect = Callable[[Server, str], AbstractAsyncContextManager[Client]]


class InProcess:
    """The engine itself, with a queue for a wire."""

    def __init__(self) -> None:
        self.connection: Connection
        self._received: asyncio.Queue[events_pb2.ServerEvent | SessionError] = asyncio.Queue()
        self.congested = False

    def deliver(self, events: Sequence[Event]) -> None:
        for event in events:
            self._received.put_nowait(to_message(event))

    async def drained(self) -> None:
        raise AssertionError("a queue is never congested")

    def end(self, error: SessionError) -> None:
        self.connection.close(error.ending)
        self._received.put_nowait(error)

    async def send(self, event: events_pb2.ClientEvent) -> None:
        self.connection.receive(event)

    async def receive(self) -> events_pb2.ServerEvent:
        received = await self._received.get()
        if isinstance(received, SessionError):
            raise Ended(frozenset({received.ending}))
        return received

    async def vanish(self) -> None:
        self.connection.close(Ending.GONE)


@asynccontextmanager
async def in_process(server: Server, key: str) -> AsyncIterator[Client]:
    client = InProcess()
    caller = server.identities.identify(Credentials(f"Bearer {key}"))
    client.connection = server.engine.connect(caller, "in-process", client)
    try:
        yield client
    finally:
        await client.vanish()


class WebSocket:
    """JSON in text frames."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, event: events_pb2.ClientEvent) -> None:
        await self._connection.send(json_codec.encode(event), text=True)

    async def receive(self) -> events_pb2.ServerEvent:
        try:
            frame = await self._connection.recv(decode=False)
        except ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
            raise Ended(_endings(lambda status: status.close_code == code)) from None
        return json_codec.decode(events_pb2.ServerEvent, frame)

    async def vanish(self) -> None:
        self._connection.transport.abort()


@asynccontextmanager
async def websocket(server: Server, key: str) -> AsyncIterator[Client]:
    headers = {"Authorization": f"Bearer {key}"}
    url = server.websocket_url
    async with connect(url, additional_headers=headers, max_size=None, proxy=None) as connection:
        yield WebSocket(connection)


class Grpc:
    """Typed events in batches."""

    def __init__(
        self, call: "grpc.aio.StreamStreamCall[rpc.ConnectRequest, rpc.ConnectResponse]"
    ) -> None:
        self._call = call
        self._events: deque[events_pb2.ServerEvent] = deque()

    async def send(self, event: events_pb2.ClientEvent) -> None:
        await self._call.write(rpc.ConnectRequest(events=[event]))

    async def receive(self) -> events_pb2.ServerEvent:
        while not self._events:
            try:
                response = await self._call.read()
            except grpc.aio.AioRpcError as error:
                raise _ended(error) from None
            assert isinstance(response, rpc.ConnectResponse), "the stream ended without a reason"
            self._events.extend(response.events)
        return self._events.popleft()

    async def vanish(self) -> None:
        self._call.cancel()


@asynccontextmanager
async def over_grpc(server: Server, key: str) -> AsyncIterator[Client]:
    async with grpc.aio.insecure_channel(server.grpc_target) as channel:
        metadata = (("authorization", f"Bearer {key}"),)
        call = stubs.SessionServiceStub(channel).Connect(metadata=metadata)
        yield Grpc(call)
        call.cancel()


class Http:
    """Server-sent events: a request a turn. Nothing joins the requests but the key."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._turns: set[asyncio.Task[None]] = set()
        self._received: asyncio.Queue[events_pb2.ServerEvent | BaseException] = asyncio.Queue()

    async def send(self, event: events_pb2.ClientEvent) -> None:
        assert event.HasField("create"), "HTTP has no other events: mark the test 'connection'"
        body = responses_pb2.CreateResponse()
        body.CopyFrom(event.create)
        body.stream = True
        turn = asyncio.create_task(self._turn(json_codec.encode(body)))
        self._turns.add(turn)
        turn.add_done_callback(self._over)

    async def receive(self) -> events_pb2.ServerEvent:
        received = await self._received.get()
        if isinstance(received, BaseException):
            raise received
        return received

    async def vanish(self) -> None:
        turns = tuple(self._turns)
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)

    async def _turn(self, body: bytes) -> None:
        async with self._client.stream("POST", "/responses", content=body) as answer:
            if answer.status_code != 200:
                self._received.put_nowait(_refused(answer.status_code, await answer.aread()))
                return
            async for data in _data(answer):
                self._received.put_nowait(json_codec.decode(events_pb2.ServerEvent, data))

    def _over(self, turn: asyncio.Task[None]) -> None:
        self._turns.discard(turn)
        if not turn.cancelled() and (failure := turn.exception()):
            self._received.put_nowait(failure)


async def _data(answer: httpx.Response) -> AsyncIterator[bytes]:
    """Yield what the events of a stream say, without signs of life and the mark of its end."""
    unread = b""
    async for part in answer.aiter_bytes():
        *frames, unread = (unread + part).split(b"\n\n")
        for frame in frames:
            data = frame.partition(b"\ndata: ")[2]
            if data:
                yield data


def _refused(status: int, body: bytes) -> events_pb2.ServerEvent:
    """Return a refusal as the event that it would have been on a connection."""
    event = {"type": "error", "status": status, **json.loads(body)}
    return json_codec.decode(events_pb2.ServerEvent, json.dumps(event))


@asynccontextmanager
async def http(server: Server, key: str) -> AsyncIterator[Client]:
    base = server.websocket_url.replace("ws://", "http://").removesuffix("/responses")
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False) as client:
        row = Http(client)
        yield row
        await row.vanish()


def _ended(error: grpc.aio.AioRpcError) -> Ended:
    code = error.code()
    return Ended(_endings(lambda status: status.grpc_code == code))


def _endings(matches: Callable[[Status], bool]) -> frozenset[Ending]:
    return frozenset(ending for ending, status in STATUS.items() if matches(status))


ROWS: dict[str, Connect] = {
    "in-process": in_process,
    "websocket": websocket,
    "grpc": over_grpc,
    "http": http,
}
