"""HTTP/1.1 to one model server: kept connections, deadlines, and bodies as they arrive.

A general client hands a body out chunk by chunk, which for streamed tokens costs more than the
token. Here everything that one read of the socket yields comes out as one piece, and letting go of
an answer closes its socket at once, which is how a model server learns that it may stop.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

from service.errors import ModelError, Unavailable

_READ_AHEAD = 1024 * 1024  # bytes of a body that may wait before the socket is left unread
_MOST = 32 * 1024 * 1024  # bytes of a body that is read as a whole
_KEEP = 4.0  # seconds; model servers close idle connections after 5
_KEPT = 32  # idle connections
_FINAL = 200  # statuses below only say that an answer will come


@dataclass(frozen=True, kw_only=True, slots=True)
class Deadlines:
    """How long a model server may take, in seconds."""

    connect: float = 5.0
    """To accept a connection."""
    slot: float = 60.0
    """To finish something else first, where everything is busy."""
    answer: float = 300.0
    """To begin to generate: the whole prompt is computed first."""
    read: float = 60.0
    """To go on, and to answer anything else."""


class _Connection(asyncio.Protocol):
    """One connection, one exchange at a time."""

    def __init__(self) -> None:
        self.status = 0
        self.idle_since = 0.0
        self._body = bytearray()
        self._complete = False
        self._kept_alive = False
        self._lost = False
        self._progress = asyncio.Event()
        self._transport: asyncio.Transport

    @property
    def reusable(self) -> bool:
        """Whether another exchange may follow."""
        return self._complete and self._kept_alive and not self._body and not self._lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport. asyncio has already set TCP_NODELAY."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what came; stop reading while the reader is behind."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
        if len(self._body) > _READ_AHEAD:
            self._transport.pause_reading()
        self._progress.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wake the reader, whatever the cause."""
        del exc
        self._lost = True
        self._progress.set()

    def on_message_begin(self) -> None:
        """Refuse an answer that nobody asked for; called by the parser."""
        if self._complete:  # the next to ask would be told it as if it were theirs
            raise ConnectionAbortedError

    def on_headers_complete(self) -> None:
        """Note the status; called by the parser, which knows only now whether the server goes on."""
        status = self._parser.get_status_code()
        self.status = status if status >= _FINAL else 0
        self._kept_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Gather the body; called by the parser."""
        self._body += body

    def on_message_complete(self) -> None:
        """Note the end of the answer; called by the parser, also for one that announces another."""
        self._complete = self.status > 0

    def send(self, request: Sequence[bytes]) -> None:
        """Begin an exchange. Raises `ConnectionResetError` if the server has just closed."""
        if self._transport.is_closing():  # asyncio would fail in words of its own
            raise ConnectionResetError
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self._complete = False
        self._transport.writelines(request)

    async def answered(self, deadline: float) -> None:
        """Wait for the answer's head."""
        async with asyncio.timeout(deadline):
            while not self.status and not self._lost:
                await self._progressed()
        if not self.status:
            raise ConnectionResetError

    async def read(self, deadline: float) -> bytes:
        """Return what has come of the body, nothing at its end."""
        async with asyncio.timeout(deadline):
            while not (self._body or self._complete or self._lost):
                await self._progressed()
        if not self._body and not self._complete:
            raise ConnectionResetError
        body, self._body = bytes(self._body), bytearray()
        if not self._lost:
            self._transport.resume_reading()
        return body

    def abort(self) -> None:
        """Close the socket now."""
        self._transport.abort()

    async def _progressed(self) -> None:
        self._progress.clear()
        await self._progress.wait()


class Answer:
    """What a model server answers."""

    def __init__(self, connection: _Connection, deadline: float) -> None:
        self.status = connection.status
        self._connection = connection
        self._deadline = deadline

    async def read(self) -> bytes:
        """Return everything that has arrived since, nothing at the end. Raises `ModelError`."""
        with _foreign_errors():
            return await self._connection.read(self._deadline)

    async def all(self) -> bytes:
        """Return the whole body. Raises `ModelError`, also if there is no end to it."""
        if (body := await self.within(_MOST)) is None:
            raise ModelError("server_error", "The model server's answer is too long.")
        return body

    async def within(self, most: int) -> bytes | None:
        """Return the whole body; None, once that is sure, if it has more than so many bytes."""
        body = bytearray()
        while piece := await self.read():
            body += piece
            if len(body) > most:
                return None
        return bytes(body)


class HttpClient:
    """A model server's address, and the connections to it that are kept."""

    def __init__(self, url: str, headers: Mapping[str, str], deadlines: Deadlines) -> None:
        address = urlsplit(url)
        self._tls = ssl.create_default_context() if address.scheme == "https" else None
        self._host = address.hostname or ""
        self._port = address.port or (443 if self._tls else 80)
        self._path = address.path.rstrip("/")
        host = address.netloc.rpartition("@")[2]  # an address may hold credentials
        fields = {"Host": host, "Content-Type": "application/json", **headers}
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._deadlines = deadlines
        self._idle: list[_Connection] = []

    def close(self) -> None:
        """Let go of the kept connections."""
        while self._idle:
            self._idle.pop().abort()

    @asynccontextmanager
    async def exchange(
        self, method: str, path: str, body: Sequence[bytes], deadline: float
    ) -> AsyncGenerator[Answer]:
        """Ask, and yield the answer. Leaving before its end closes the socket. Raises `ModelError`."""
        with _foreign_errors():
            connection = await self._ask([self._head(method, path, body), *body], deadline)
        try:
            yield Answer(connection, self._deadlines.read)
        finally:
            self._release(connection)

    def _head(self, method: str, path: str, body: Sequence[bytes]) -> bytes:
        length = sum(map(len, body))
        return (
            f"{method} {self._path}{path} HTTP/1.1\r\n{self._fields}Content-Length: {length}\r\n\r\n"
        ).encode()

    async def _ask(self, request: Sequence[bytes], deadline: float) -> _Connection:
        while (kept := self._kept()) is not None:
            try:
                return await _begun(kept, request, deadline)
            except ConnectionError:
                continue  # closed as we wrote, as a rule; generating has no effects, so asking twice is safe
        return await _begun(await self._connect(), request, deadline)

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._deadlines.connect):
                _, connection = await loop.create_connection(
                    _Connection, self._host, self._port, ssl=self._tls
                )
        except TimeoutError as error:
            raise ConnectionError from error
        return connection

    def _kept(self) -> _Connection | None:
        oldest = asyncio.get_running_loop().time() - _KEEP
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.idle_since > oldest:
                return connection
            connection.abort()
        return None

    def _release(self, connection: _Connection) -> None:
        if connection.reusable and len(self._idle) < _KEPT:
            connection.idle_since = asyncio.get_running_loop().time()
            self._idle.append(connection)
        else:
            connection.abort()


async def _begun(connection: _Connection, request: Sequence[bytes], deadline: float) -> _Connection:
    """Send a request and wait for the answer's head; whatever happens, no socket is left behind."""
    try:
        connection.send(request)
        await connection.answered(deadline)
    except BaseException:
        connection.abort()
        raise
    return connection


@contextmanager
def _foreign_errors() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise ModelError("server_error", "The model server did not answer in time.") from error
    except OSError as error:
        raise Unavailable(
            "server_error", "The model server cannot be reached, or broke off."
        ) from error
