"""A chat server's HTTP interface."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from service.backends import meaning
from service.backends.chat.errors import error_of
from service.backends.chat.kinds import KINDS, Kind
from service.backends.http import Answer, Deadlines, HttpClient
from service.backends.sse import Events
from service.backends.values import object_in, text_in
from service.errors import ModelError
from service.rendering.renderer import Renderer

_NEAR = 1.0
"""Seconds until the end of a stream that has said all: waiting for it keeps the connection."""
_CHECK = 2.0  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatServer:
    """Which server it is, and what is known of it."""

    url: str
    """Where its API is. Where that has no path, at `/v1`."""
    kind: str = "chat"
    """One of `KINDS`."""
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Sent with every request."""
    models: Sequence[str] = ()
    """The models to use; all that it has, where none are named."""
    context: int | None = None
    """Tokens that prompt and answer may have together, where the server does not tell."""
    renderer: Callable[[str], Renderer] | None = None
    """Returns what makes ids of conversations for a model, for kinds that take ids. May block; raises
    `ModelError`."""
    deadlines: Deadlines = field(default_factory=Deadlines)


class Model(NamedTuple):
    """A model that a server has."""

    name: str
    context: int | None
    """Tokens that prompt and answer may have together, if that is known."""


class Stream:
    """An answer's events, as they arrive."""

    def __init__(self, answer: Answer, deadline: float) -> None:
        """`deadline` is for the server to go on; until it begins, the client's own holds."""
        self._answer = answer
        self._deadline = deadline
        self._events = Events()
        self._begun = False

    async def read(self) -> list[bytes]:
        """Return the data of all events that one read yields, nothing at the end. Raises `ModelError`."""
        while piece := await self._piece():
            if events := self._events.feed(piece):
                self._begun = True
                return events
        return []

    async def rest(self) -> None:
        """Read to the end, which is near."""
        with contextlib.suppress(ModelError, TimeoutError):
            async with asyncio.timeout(_NEAR):
                while await self._answer.read():
                    pass

    async def _piece(self) -> bytes:
        try:
            async with asyncio.timeout(self._deadline if self._begun else None):
                return await self._answer.read()
        except TimeoutError as error:
            raise ModelError("server_error", "The model server did not answer in time.") from error


class Server:
    """The routes of one server."""

    def __init__(self, server: ChatServer) -> None:
        self.kind = _kind(server.kind)
        self._context = server.context
        self._deadlines = server.deadlines
        root, self._api = _addresses(server.url)
        authorization = {"Authorization": f"Bearer {server.api_key}"} if server.api_key else {}
        patient = replace(server.deadlines, read=server.deadlines.answer)
        self._http = HttpClient(root, {**authorization, **server.headers}, patient)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    async def models(self) -> list[Model]:
        """Return the models that it tells of: some hosted servers tell of none. Raises `ModelError`."""
        status, content = await self._asked("GET", f"{self._api}/models", self._deadlines.read)
        if status in {404, 405}:
            return []
        listed = object_in(_well(status, content))
        try:
            return [
                Model(text_in(model["id"]), self._context or _context(model))
                for model in listed["data"]
            ]
        except (AttributeError, LookupError, TypeError) as error:
            raise ModelError("server_error", "The model server lists no models.") from error

    async def check(self) -> None:
        """Ask whether it is well. Raises `ModelError`."""
        _well(*await self._asked("GET", self.kind.health or f"{self._api}/models", _CHECK))

    async def means(self, model: str, ids: Sequence[int]) -> bool:
        """Whether it may mean by ids what they are made of, `meaning.WORDS`. Raises `ModelError`."""
        body = [meaning.question(model, ids)]
        status, content = await self._asked("POST", meaning.PATH, self._deadlines.read, body)
        return not meaning.differs(status, content)

    @asynccontextmanager
    async def stream(self, body: Sequence[bytes]) -> AsyncGenerator[Stream]:
        """Ask for a completion. Leaving early stops the server's work. Raises `ModelError`."""
        async with self._completion(body) as answer:
            yield Stream(answer, self._deadlines.read)

    async def complete(self, body: Sequence[bytes]) -> dict[str, Any]:
        """Ask for a completion that is not streamed. Raises `ModelError`."""
        async with self._completion(body) as answer:
            return object_in(await answer.all())

    @asynccontextmanager
    async def _completion(self, body: Sequence[bytes]) -> AsyncGenerator[Answer]:
        path = f"{self._api}/chat/completions"
        async with self._http.exchange("POST", path, body, self._deadlines.answer) as answer:
            if answer.status != 200:
                raise error_of(answer.status, await answer.all())
            yield answer

    async def _asked(
        self, method: str, path: str, deadline: float, body: Sequence[bytes] = ()
    ) -> tuple[int, bytes]:
        try:
            async with (
                asyncio.timeout(deadline),
                self._http.exchange(method, path, body, deadline) as answer,
            ):
                return answer.status, await answer.all()
        except TimeoutError as error:
            raise ModelError("server_error", "The model server did not answer in time.") from error


def _well(status: int, content: bytes) -> bytes:
    if status != 200:
        raise error_of(status, content)
    return content


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise ModelError("server_error", f"'{name}' is none of {', '.join(KINDS)}.")
    return KINDS[name]


def _addresses(url: str) -> tuple[str, str]:
    """Return a server's root, and the path of the API below it."""
    url = url.rstrip("/")
    if not urlsplit(url).path:
        return url, "/v1"
    return (url.removesuffix("/v1"), "/v1") if url.endswith("/v1") else (url, "")


def _context(model: dict[str, Any]) -> int | None:
    meta = model.get("meta") or {}
    context = model.get("max_model_len") or model.get("context_length") or meta.get("n_ctx")
    return context if isinstance(context, int) else None
