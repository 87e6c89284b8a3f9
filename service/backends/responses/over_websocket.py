"""Turns over WebSockets, on which the upstream holds what was said: a socket for each conversation.

A conversation goes back to the socket whose last response it continues. A fork of it gets a socket of
its own. Without a socket that holds the conversation it is told whole, on a new one.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Literal
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.protocol import State

from service.backends.http import Deadlines
from service.backends.responses.errors import Forgotten, broke_off, refusal
from service.backends.responses.lines import Owner
from service.backends.responses.terms import Terms
from service.errors import ModelError, Unavailable
from service.limits import MIB
from service.loopback import is_loopback

_LARGEST_EVENT = 16 * MIB
_READ_AHEAD = 64  # events; beyond them the socket is left unread
_PING = 20.0  # seconds of silence before a ping, and for its answer
_CLOSE = 1.0  # seconds for an upstream to agree to an end
_logger = logging.getLogger(__name__)
_logger.setLevel(logging.CRITICAL)  # below that, `websockets` logs what frames contain


class _Socket(ClientConnection):
    """A WebSocket that knows whether there is something to read."""

    @property
    def waits(self) -> bool:
        """Whether a message has come that was not read."""
        return len(self.recv_messages.frames) > 0


class WebSocketLine:
    """One WebSocket, one turn at a time."""

    def __init__(self, socket: _Socket, owner: Owner, deadlines: Deadlines) -> None:
        self.owner = owner
        self.held: str | None = None
        """The last response, if the upstream holds it here alone."""
        self.finished = False
        self.opened = asyncio.get_running_loop().time()
        self.expiry: asyncio.TimerHandle | None = None
        self._socket, self._deadlines = socket, deadlines
        self._gone: Callable[[], ModelError] = broke_off
        """What its loss means: on one that had been idle, more is lost than a turn."""

    @property
    def usable(self) -> bool:
        """Whether a turn may begin: what an upstream says between turns is that it goes away."""
        return self._socket.state is State.OPEN and not self._socket.waits

    async def send(self, request: Sequence[bytes]) -> None:
        """Ask for a response. Raises `ModelError`."""
        with _foreign_errors(self._gone):
            async with asyncio.timeout(self._deadlines.read):
                await self._socket.send(b"".join(request), text=True)

    async def read(self) -> Sequence[bytes]:
        """Return the events that have come since. Raises `ModelError`, also at the end."""
        with _foreign_errors(self._gone):
            async with asyncio.timeout(self._deadlines.answer):
                events = [await self._socket.recv(decode=False)]
                while self._socket.waits:
                    events.append(await self._socket.recv(decode=False))
        return events

    def finish(self, held: str | None) -> None:
        """The response is complete: another turn may begin."""
        self.held, self.finished, self._gone = held, True, Forgotten

    def abort(self) -> None:
        """Close it now: the upstream stops."""
        self._socket.transport.abort()

    async def close(self) -> None:
        """Close it in good order."""
        await self._socket.close()


class WebSocketLines:
    """The sockets to one upstream: some busy, the others idle, by when they were used last."""

    def __init__(
        self, url: str, headers: Mapping[str, str], terms: Terms, deadlines: Deadlines
    ) -> None:
        self._url, self._headers, self._terms, self._deadlines = url, headers, terms, deadlines
        self._compression = _compression(url)
        self._idle: dict[WebSocketLine, None] = {}  # longest unused first
        self._open = 0
        self._free = asyncio.Semaphore(terms.connections)  # as many as are not busy

    @asynccontextmanager
    async def lease(self, owner: Owner, held: str | None) -> AsyncGenerator[WebSocketLine]:
        """Lease a socket, the one on which a response is held if there is one. Raises `ModelError`."""
        await self._acquire()
        try:
            line = self._kept(owner, held) or await self._connected(owner)
            try:
                line.finished = False
                yield line
            finally:
                self._put_back(line)
        finally:
            self._free.release()

    async def close(self) -> None:
        """Close all that are idle; none is busy any more."""
        idle = list(self._idle)
        for line in idle:
            self._take(line)
        self._open -= len(idle)
        await asyncio.gather(*(line.close() for line in idle))

    async def _acquire(self) -> None:
        try:
            async with asyncio.timeout(self._deadlines.slot):
                await self._free.acquire()
        except TimeoutError as error:
            raise Unavailable("rate_limit_exceeded", "The model is busy; try again.") from error

    def _kept(self, owner: Owner, held: str | None) -> WebSocketLine | None:
        """Return an idle socket of the owner's on which nothing else would be forgotten."""
        oldest = asyncio.get_running_loop().time() - self._terms.age_seconds
        fitting = [one for one in self._idle if (one.owner, one.held) == (owner, held)]
        for line in reversed(fitting):
            self._take(line)
            if line.usable and line.opened > oldest:
                return line
            self._drop(line)
        return None

    async def _connected(self, owner: Owner) -> WebSocketLine:
        """Open a socket; the one that was used longest ago makes room."""
        if self._open >= self._terms.connections:
            oldest = next(iter(self._idle))
            self._take(oldest)
            self._drop(oldest)
        self._open += 1
        try:
            return WebSocketLine(await self._connect(), owner, self._deadlines)
        except BaseException:
            self._open -= 1
            raise

    async def _connect(self) -> _Socket:
        with _foreign_errors(broke_off):
            socket = await connect(
                self._url,
                additional_headers=self._headers,
                compression=self._compression,
                open_timeout=self._deadlines.connect,
                ping_interval=_PING,
                ping_timeout=_PING,
                close_timeout=_CLOSE,
                max_size=_LARGEST_EVENT,
                max_queue=_READ_AHEAD,
                proxy=None,
                logger=_logger,
                create_connection=_Socket,
            )
        assert isinstance(socket, _Socket)
        return socket

    def _put_back(self, line: WebSocketLine) -> None:
        if not line.finished or not line.usable:
            self._drop(line)
            return
        loop = asyncio.get_running_loop()
        line.expiry = loop.call_later(self._terms.idle_seconds, self._expire, line)
        self._idle[line] = None

    def _expire(self, line: WebSocketLine) -> None:
        self._take(line)
        self._drop(line)

    def _take(self, line: WebSocketLine) -> None:
        del self._idle[line]
        if line.expiry:
            line.expiry.cancel()

    def _drop(self, line: WebSocketLine) -> None:
        self._open -= 1
        line.abort()


def _compression(url: str) -> Literal["deflate"] | None:
    """Compress what leaves the machine, nothing else."""
    return None if is_loopback(urlsplit(url).hostname or "") else "deflate"


@contextmanager
def _foreign_errors(gone: Callable[[], ModelError]) -> Iterator[None]:
    """Say in our words what went wrong; `gone` makes the error of a socket that is closed."""
    try:
        yield
    except ConnectionClosed as error:
        raise gone() from error
    except InvalidStatus as error:
        raise refusal(error.response.status_code, bytes(error.response.body)) from error
    except TimeoutError as error:
        raise ModelError("server_error", "The model server did not answer in time.") from error
    except (OSError, InvalidHandshake, InvalidURI) as error:
        raise broke_off() from error
