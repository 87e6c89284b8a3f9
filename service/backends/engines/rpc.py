"""An engine behind gRPC: one connection, deadlines, and streams that are told to stop."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import grpc
from smg_grpc_proto.generated import common_pb2  # type: ignore[import-untyped]

from service.backends.engines import Ended, Event, Model, Request
from service.backends.engines.files import MOST_BYTES, read_from, unpacked
from service.backends.engines.outcomes import error_of
from service.backends.engines.packed import Packed, spliced
from service.backends.engines.wires import Wire
from service.backends.http import Deadlines
from service.errors import ModelError, Unavailable
from service.rendering import Files
from service.rendering.encodings import Encoding

_ABORT = 2.0  # seconds, to take in that it shall stop; the stream is cancelled already
_CHECK = 2.0  # seconds
_MOST_MESSAGE = 64 * 1024 * 1024  # bytes; a last message may repeat an answer with all its scores
_MOST_BACKOFF = 5.0  # seconds between attempts to connect again
_NOTHING = b""  # a message without content, of whatever type


class Rpc:
    """An engine, by its gRPC address and its wire."""

    encoding: Encoding = Packed()

    def __init__(
        self,
        url: str,
        wire: Wire,
        api_key: str | None = None,
        deadlines: Deadlines | None = None,
        tokenizer: Path | None = None,
    ) -> None:
        """`url` is `grpc://host:port`, or `grpcs://` for TLS.

        `tokenizer` is a directory, for engines that hand none out: vLLM has to find its own on disk.
        """
        self._tokenizer = tokenizer
        self.kind = wire.kind
        self.capabilities = wire.capabilities
        self._address = urlsplit(url)
        self._wire = wire
        self._metadata = [("authorization", f"Bearer {api_key}")] if api_key else []
        self._deadlines = deadlines or Deadlines()
        self._opened: grpc.aio.Channel | None = None

    async def model(self) -> Model:
        """Ask what the engine has loaded. Raises `ModelError`."""
        return self._wire.model(await self._ask("GetModelInfo", _NOTHING, self._deadlines.read))

    async def check(self) -> None:
        """Ask whether it is well. Raises `ModelError`."""
        if not self._wire.healthy(await self._ask("HealthCheck", _NOTHING, _CHECK)):
            raise Unavailable("server_error", "The model server says that it is not well.")

    async def stop(self) -> None:
        """Let go of the connection."""
        if self._opened is not None:
            await self._opened.close()

    async def files(self) -> Files:
        """Get the tokenizer's files. Raises `ModelError`."""
        if self._tokenizer is not None:
            return await asyncio.to_thread(read_from, self._tokenizer)
        return await self._handed_out()

    async def _handed_out(self) -> Files:
        archive, digest = bytearray(), ""
        stream = self._stream("GetTokenizer", _NOTHING)
        while (data := await stream.read(self._deadlines.read)) and len(archive) <= MOST_BYTES:
            chunk = common_pb2.GetTokenizerChunk.FromString(data)
            archive += chunk.data
            digest = chunk.sha256 or digest
        stream.cancel()
        return await asyncio.to_thread(unpacked, bytes(archive), digest)

    async def sample(self, request: Request) -> AsyncGenerator[list[Event], None]:
        """Sample. Leaving before the end tells the engine to stop. Raises `ModelError`."""
        async with self._generation(request) as stream:
            deadline = self._deadlines.answer
            while data := await stream.read(deadline):
                event = self._wire.event(data)
                stream.over = isinstance(event, Ended)
                yield [event]
                if stream.over:
                    return
                deadline = self._deadlines.read
        raise Unavailable("server_error", "The model server broke off.")

    @asynccontextmanager
    async def _generation(self, request: Request) -> AsyncGenerator["_Stream"]:
        identity = uuid.uuid4().hex
        rest = self._wire.request(identity, request)
        prompt = [part.data for part in request.prompt]
        stream = self._stream("Generate", spliced(rest, prompt))
        try:
            yield stream
        finally:
            stream.cancel()
            if not stream.over:  # some engines do not mind that a stream is gone
                with suppress(ModelError):
                    await self._ask("Abort", self._wire.abort(identity), _ABORT)

    async def _ask(self, method: str, data: bytes, deadline: float) -> bytes:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = self._channel().unary_unary(self._path(method))
        with _foreign_errors():
            return await call(data, timeout=deadline, metadata=self._metadata)

    def _stream(self, method: str, data: bytes) -> "_Stream":
        ask: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
        ask = self._channel().unary_stream(self._path(method))
        return _Stream(ask(data, metadata=self._metadata))

    def _path(self, method: str) -> str:
        return f"/{self._wire.service}/{method}"

    def _channel(self) -> grpc.aio.Channel:
        if self._opened is None:
            self._opened = self._open()
        return self._opened

    def _open(self) -> grpc.aio.Channel:
        options = [
            ("grpc.max_receive_message_length", _MOST_MESSAGE),
            ("grpc.min_reconnect_backoff_ms", int(self._deadlines.connect * 1000)),
            ("grpc.max_reconnect_backoff_ms", int(_MOST_BACKOFF * 1000)),
        ]
        if self._address.scheme == "grpcs":
            tls = grpc.ssl_channel_credentials()
            return grpc.aio.secure_channel(self._address.netloc, tls, options)
        return grpc.aio.insecure_channel(self._address.netloc, options)


class _Stream:
    """The answer to a call, message by message. What is not read holds the engine back."""

    def __init__(self, call: "grpc.aio.UnaryStreamCall[bytes, bytes]") -> None:
        self._call = call
        self.over = False
        """Whether the engine has nothing more to do for it."""

    def cancel(self) -> None:
        """Read no more."""
        self._call.cancel()

    async def read(self, deadline: float) -> bytes:
        """Return one message, nothing at the end. Raises `ModelError`."""
        try:
            with _foreign_errors():
                async with asyncio.timeout(deadline):
                    message = await self._call.read()
        except ModelError as error:
            self.over = isinstance(error.__cause__, grpc.aio.AioRpcError)
            raise
        return message if isinstance(message, bytes) else b""


@contextmanager
def _foreign_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise error_of(grpc.StatusCode.DEADLINE_EXCEEDED) from error
    except grpc.aio.AioRpcError as error:
        raise error_of(error.code()) from error
