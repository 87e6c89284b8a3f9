"""Both ends of a wire under test: an engine that does what a test says, clients, a transport."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Self, cast

from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from service.connection import Sink
from service.engine import Engine
from service.errors import Ending, Refusal
from service.identity import Anonymous, Identity
from service.limits import Limits
from transports.endpoint import Endpoint
from transports.http import wheel_for
from transports.websocket import WebSocketConnection
from turnwire.v1 import events_pb2

CREATE = '{"type":"response.create","model":"m","input":"hi"}'
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{headers}\r\n"
)


def text(delta: str) -> events_pb2.ServerEvent:
    return events_pb2.ServerEvent(
        sequence_number=0,
        output_text_delta=events_pb2.OutputTextDelta(item_id="msg_1", delta=delta),
    )


class ScriptedConnection:
    """One connection of the engine's port; `script` runs for every client event."""

    def __init__(self, tenant: str, sink: Sink, script: "Script") -> None:
        self.tenant = tenant
        self.sink = sink
        self.received: list[events_pb2.ClientEvent] = []
        self.refused: list[Refusal] = []
        self.ending: Ending | None = None
        self.closed = asyncio.Event()
        self._script = script

    def receive(self, event: events_pb2.ClientEvent) -> None:
        self.received.append(event)
        self._script(self, event)

    def refuse(self, refusal: Refusal, stream_id: str | None = None) -> None:
        self.refused.append(refusal)
        self.sink.deliver([refusal.event()])

    def close(self, ending: Ending) -> None:
        self.ending = self.ending or ending
        self.closed.set()

    async def ended(self) -> Ending | None:
        async with asyncio.timeout(5):
            await self.closed.wait()
        return self.ending


Script = Callable[[ScriptedConnection, events_pb2.ClientEvent], None]


def answer(connection: ScriptedConnection, event: events_pb2.ClientEvent) -> None:
    """Answer each event with its kind: enough to see that the connection is usable."""
    connection.sink.deliver([text(event.WhichOneof("kind") or "nothing")])


class ScriptedEngine:
    """The engine's port."""

    def __init__(self, script: Script = answer) -> None:
        self.script = script
        self.refusal: Refusal | None = None
        self.connections: asyncio.Queue[ScriptedConnection] = asyncio.Queue()
        self.rejections: list[str] = []
        self.refusals: list[int] = []

    def connect(self, caller: Identity, transport: str, sink: Sink) -> ScriptedConnection:
        assert transport == "websocket"
        if self.refusal is not None:
            raise self.refusal
        connection = ScriptedConnection(caller.tenant, sink, self.script)
        self.connections.put_nowait(connection)
        return connection

    def rejected(self, transport: str, outcome: str) -> None:
        assert transport == "websocket"
        self.rejections.append(outcome)

    def refused(self, transport: str, status: int) -> None:
        assert transport in ("websocket", "http")
        self.refusals.append(status)

    async def connected(self) -> ScriptedConnection:
        async with asyncio.timeout(5):
            return await self.connections.get()

    @property
    def port(self) -> Engine:
        """The same object, as what transports take it for."""
        return cast("Engine", self)


class RawClient:
    """A client that sends what it likes, frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @classmethod
    async def upgraded(cls, port: int) -> Self:
        client = await cls.connect(port)
        client.writer.write(handshake())
        head = await client.head()
        assert head.startswith("HTTP/1.1 101 "), head
        return client

    def send(self, opcode: Opcode, data: bytes, fin: bool = True) -> None:
        self.writer.write(Frame(opcode, data, fin).serialize(mask=True))

    async def head(self) -> str:
        async with asyncio.timeout(5):
            return (await self._reader.readuntil(b"\r\n\r\n")).decode()

    async def skip(self, length: int) -> None:
        async with asyncio.timeout(5):
            await self._reader.readexactly(length)

    async def rest(self) -> bytes:
        """Everything up to the end of the stream."""
        async with asyncio.timeout(5):
            return await self._reader.read()

    async def frame(self) -> Frame:
        async with asyncio.timeout(5):
            head, length = await self._reader.readexactly(2)
            if length > 125:
                width = {126: 2, 127: 8}[length]
                length = int.from_bytes(await self._reader.readexactly(width), "big")
            data = await self._reader.readexactly(length)
        return Frame(Opcode(head & 0xF), data, bool(head & 0x80))

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class RecordingTransport(asyncio.Transport):
    """A socket whose other end takes as many bytes as it is given credit for."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.buffered = 0
        self.accepts = True
        self.aborted = False
        self.half_closed = False
        self.reading = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))
        if not self.accepts:
            self.buffered += len(data)

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        del high, low

    def is_closing(self) -> bool:
        return self.aborted

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def abort(self) -> None:
        self.aborted = True


class Wired:
    """A connection without a socket or a clock: tests play the event loop."""

    def __init__(self, limits: Limits, script: Script = answer) -> None:
        self.engine = ScriptedEngine(script)
        endpoint = Endpoint(self.engine.port, Anonymous(), limits, wheel_for(limits))
        self.wheel = endpoint.wheel
        self.transport = RecordingTransport()
        self.protocol = WebSocketConnection(
            endpoint,
            config=Config("none", log_config=None),
            server_state=ServerState(),
            app_state={},
        )
        self.protocol.connection_made(self.transport)
        self.protocol.data_received(handshake())
        self.connection = self.engine.connections.get_nowait()
        self.transport.writes.clear()
        self.now = asyncio.get_running_loop().time()

    def feed(self, *frames: Frame) -> None:
        self.protocol.data_received(b"".join(frame.serialize(mask=True) for frame in frames))

    def after(self, seconds: float) -> None:
        """Let the wheel come round, that many seconds after now."""
        self.protocol.tick(self.now + seconds)

    @property
    def written(self) -> bytes:
        return b"".join(self.transport.writes)

    def lose(self) -> None:
        self.protocol.connection_lost(None)


def handshake(path: str = "/v1/responses", headers: Sequence[str] = ()) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return HANDSHAKE.format(path=path, headers=lines).encode()


def create() -> Frame:
    return Frame(Opcode.TEXT, CREATE.encode())
