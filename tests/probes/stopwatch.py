"""Connections that wait for one answer at a time and do nothing else: what is timed is the service.

A client reads the clock right before its bytes go out and right after the last of the answer came in.
What is sent was made before.
"""

import base64
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import grpc
from websockets.frames import Frame, Opcode

from tests.probes.asking import Event, GrpcCall, HttpRequest, Request
from tests.probes.wires import metadata
from tests.replicas.replica import Address

_WAIT = 15.0
_READ = 1 << 16


class Watch(Protocol):
    """A connection that times."""

    def prepared(self, request: Request) -> Callable[[], None]:
        """Return what asks, and returns when all of the answer is there."""


class HttpWatch:
    """HTTP, kept alive."""

    def __init__(self, connection: socket.socket, key: str) -> None:
        self._connection, self._key = connection, key

    def prepared(self, request: Request) -> Callable[[], None]:
        assert isinstance(request, HttpRequest)
        data = request.encoded(self._key)

        def ask() -> None:
            self._connection.sendall(data)
            self._read()

        return ask

    def _read(self) -> None:
        answer = _more(self._connection)
        while (end := answer.find(b"\r\n\r\n")) < 0:
            answer += _more(self._connection)
        at = answer.lower().index(b"content-length:") + len(b"content-length:")
        whole = end + 4 + int(answer[at : answer.index(b"\r", at)])
        while len(answer) < whole:
            answer += _more(self._connection)


class WebSocketWatch:
    """A WebSocket, for questions that one frame answers."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def prepared(self, request: Request) -> Callable[[], None]:
        assert isinstance(request, Event)
        data = Frame(Opcode.TEXT, request.text().encode()).serialize(mask=True)

        def ask() -> None:
            self._connection.sendall(data)
            self._read()

        return ask

    def _read(self) -> None:
        answer = _more(self._connection)
        while len(answer) < 4 or len(answer) < _frame_length(answer):
            answer += _more(self._connection)


class GrpcWatch:
    """A gRPC channel."""

    def __init__(self, channel: grpc.Channel, key: str) -> None:
        self._channel, self._metadata = channel, metadata(key)
        self._calls: dict[str, Any] = {}  # one for all names: each is as fast as it happens to be

    def prepared(self, request: Request) -> Callable[[], None]:
        assert isinstance(request, GrpcCall)
        data = request.message.SerializeToString()
        call = self._calls.setdefault(request.method, self._channel.unary_unary(request.method))

        def ask() -> None:
            try:
                call(data, metadata=self._metadata, timeout=_WAIT)
            except grpc.RpcError:
                return

        return ask


def timed(ask: Callable[[], None]) -> float:
    """Return how many microseconds an answer took."""
    began = time.perf_counter_ns()
    ask()
    return (time.perf_counter_ns() - began) / 1000


@contextmanager
def http(address: Address, key: str) -> Iterator[Watch]:
    """Connect over HTTP."""
    with _connected(address) as connection:
        yield HttpWatch(connection, key)


@contextmanager
def websocket(address: Address, key: str) -> Iterator[Watch]:
    """Connect over a WebSocket."""
    with _connected(address) as connection:
        connection.sendall(upgrade(key))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += _more(connection)
        assert answer.startswith(b"HTTP/1.1 101"), answer
        yield WebSocketWatch(connection)


@contextmanager
def over_grpc(address: Address, key: str) -> Iterator[Watch]:
    """Open a gRPC channel."""
    with grpc.insecure_channel(address.grpc_target, [("grpc.enable_http_proxy", 0)]) as channel:
        yield GrpcWatch(channel, key)


def upgrade(key: str) -> bytes:
    """Return the handshake of a WebSocket."""
    nonce = base64.b64encode(os.urandom(16)).decode()
    return (
        "GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {nonce}\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Bearer {key}\r\n\r\n"
    ).encode()


def shake_hands(address: Address, key: str) -> Callable[[], None]:
    """Return what opens a WebSocket with a key that is refused."""
    data = upgrade(key)

    def ask() -> None:
        with _connected(address) as connection:
            connection.sendall(data)
            while connection.recv(_READ):
                pass

    return ask


WATCHES = {"HTTP": http, "WebSocket": websocket, "gRPC call": over_grpc}


@contextmanager
def _connected(address: Address) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", address.http), _WAIT) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield connection


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(_READ)
    assert data, "the service has closed the connection"
    return data


def _frame_length(data: bytes) -> int:
    """Return how long a server's frame is, its head of at least four bytes included."""
    length = data[1] & 0x7F
    return 4 + int.from_bytes(data[2:4]) if length == 126 else 2 + length
