"""One resource of the HTTP face: what all of its methods have in common.

Who asks is settled first; what is refused, or fails, is said in the API's shape; a body is read
within its bound.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

import structlog
from google.protobuf.message import Message
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as AsgiMessage

from service.errors import Ending, Failed, NotFound, Refusal, Unauthenticated
from service.identity import Credentials, Identity
from service.limits import Limits
from service.paging import Page
from transports.endpoint import Endpoint
from transports.http_answer import Said, say
from transports.http_exchange import Client
from transports.refusals import SMALL, MessageTooLarge, count_refused
from transports.tls import NOTHING, Shown
from turnwire import json_codec

M = TypeVar("M", bound=Message)

_UNENCODED: Final = frozenset({"", "identity"})
_SWITCH: Final = MappingProxyType({"true": True, "false": False})
_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class MethodNotAllowed(Refusal):
    """The resource does not have this method."""

    status = 405

    def __init__(self, allowed: str) -> None:
        super().__init__("method_not_allowed", f"Here the methods are {allowed}.")
        self.headers = {"Allow": allowed}


class EncodedBody(Refusal):
    """A request's body is compressed, and only its receiver would know how large it is."""

    status = 415
    headers = MappingProxyType({"Accept-Encoding": "identity"})

    def __init__(self) -> None:
        super().__init__("unsupported_content_encoding", "Send the body without Content-Encoding.")


class Body:
    """What a client sends after the head, read once."""

    def __init__(self, receive: Receive, headers: Headers) -> None:
        self._receive = receive
        self._headers = headers
        self._unread = True

    async def read(self, most: int) -> bytes:
        """Return all of it. Raises `MessageTooLarge`, `EncodedBody` or `ClientDisconnect`."""
        if self._headers.get("Content-Encoding", "").lower() not in _UNENCODED:
            raise EncodedBody
        _check(int(self._headers.get("Content-Length", 0)), most)
        chunks, size = [], 0
        while self._unread:
            chunks.append(await self._next())
            size += len(chunks[-1])
            _check(size, most)
        return b"".join(chunks)

    async def discard(self) -> None:
        """Let the client finish: closing on unread bytes could take our last words from it."""
        while self._unread:
            await self._next()

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self._unread = message.get("more_body", False)
        chunk: bytes = message.get("body", b"")
        return chunk


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a tenant, as far as it has been read."""

    caller: Identity
    request: Request
    body: Body
    endpoint: Endpoint

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.caller.tenant

    @property
    def limits(self) -> Limits:
        """What it may cost."""
        return self.endpoint.limits

    @property
    def client(self) -> Client:
        """The client's end of the connection."""
        client: Client = self.request.scope["state"]["client"]
        return client

    def named(self, part: str) -> str:
        """Return the part of the path that has this name."""
        value: str = self.request.path_params[part]
        return value

    async def read(self, kind: type[M]) -> M:
        """Read the body as a message; no body is an empty object. Raises `Refusal`."""
        return await self._read(kind, self.limits.message_bytes)

    async def read_small(self, kind: type[M]) -> M:
        """Read the body of what has few items, of which some may be images. Raises `Refusal`."""
        return await self._read(kind, min(SMALL, self.limits.message_bytes))

    def said(self, message: Message) -> ASGIApp:
        """Answer with a message."""
        return Said(message, self.tenant, self.endpoint.large_answers)

    async def _read(self, kind: type[M], most: int) -> M:
        try:
            return json_codec.decode(kind, await self.body.read(most) or b"{}")
        except json_codec.InvalidJson as invalid:
            raise Refusal.of_invalid(invalid) from None

    def page(self) -> Page:
        """Return which page of a list is asked for. Raises `Refusal`."""
        query = self.request.query_params
        return Page(query.get("after", ""), self.number("limit") or 0, query.get("order", ""))

    def number(self, name: str) -> int | None:
        """Return a parameter of the query, if it is there. Raises `Refusal`."""
        if (value := self.request.query_params.get(name)) is None:
            return None
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
            raise Refusal("invalid_value", f"'{name}' must be an integer.", name)
        return int(value)

    def switch(self, name: str) -> bool:
        """Return a parameter of the query that is off unless it says otherwise. Raises `Refusal`."""
        value = self.request.query_params.get(name, "false")
        if value not in _SWITCH:
            raise Refusal("invalid_value", f"'{name}' must be 'true' or 'false'.", name)
        return _SWITCH[value]


Handler: TypeAlias = Callable[[Call], Awaitable[ASGIApp]]
"""Understands a request and returns what will answer it. Raises `Refusal`, as the answer may too
before it has begun.
"""


class Resource:
    """What is behind one path: an ASGI application of its methods."""

    def __init__(self, endpoint: Endpoint, methods: Mapping[str, Handler]) -> None:
        self._endpoint = endpoint
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        request = Request(scope, receive)
        body = Body(receive, request.headers)
        reply = _Reply(send)
        try:
            answer = await self._understand(request, body)
            await answer(scope, receive, reply.send)
        except MessageTooLarge as refusal:
            self._count(refusal)
            await _part(refusal, body, reply.send)
        except Refusal as refusal:
            self._count(refusal)
            await say(refusal)(scope, receive, reply.send)
        except ClientDisconnect:
            return
        except Exception:
            self._count(Failed())
            _logger.exception("request_failed")
            await reply.fail(scope, receive)

    async def _understand(self, request: Request, body: Body) -> ASGIApp:
        caller = self._admit(request.headers, request.scope.get("state", {}))
        if (handler := self._methods.get(request.method)) is None:
            raise MethodNotAllowed(", ".join(self._methods))
        return await handler(Call(caller, request, body, self._endpoint))

    def _admit(self, headers: Headers, state: Mapping[str, Any]) -> Identity:
        """Return who asks. Raises `Forbidden` or `Unauthenticated`."""
        self._endpoint.screen(headers.getlist("Origin"), headers.getlist("Host"))
        authorizations = headers.getlist("Authorization")
        if len(authorizations) > 1:
            raise Unauthenticated
        authorization = authorizations[0] if authorizations else None
        shown: Shown = state.get("shown", NOTHING)
        return self._endpoint.identities.identify(Credentials(authorization, *shown))

    def _count(self, refusal: Refusal) -> None:
        count_refused(self._endpoint.engine, "http", refusal)


class _Reply:
    """The way back: gives every answer a name, and knows whether one has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False

    async def send(self, message: AsgiMessage) -> None:
        if not self._begun:
            self._begun = True
            message["headers"] = [*message["headers"], (b"x-request-id", _request_id())]
        await self._send(message)

    async def fail(self, scope: Scope, receive: Receive) -> None:
        """Say that the server failed; an answer that has begun can only be broken off."""
        if self._begun:
            client: Client = scope["state"]["client"]
            client.cut(Ending.INTERNAL)
        else:
            await say(Failed())(scope, receive, self.send)


def not_found(endpoint: Endpoint) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Return what says that nothing is at a path."""

    async def answer(request: Request, error: Exception) -> Response:
        del request, error
        refusal = NotFound("not_found", "Nothing is here. The API begins at /v1/responses.")
        count_refused(endpoint.engine, "http", refusal)
        return say(refusal)

    return answer


def _check(size: int, most: int) -> None:
    if size > most:
        raise MessageTooLarge(f"{most} bytes")


async def _part(refusal: Refusal, body: Body, send: Send) -> None:
    """Answer while the client still sends, and close when it has heard, or sent all."""
    answer = say(refusal)
    answer.headers["Connection"] = "close"
    headers = answer.raw_headers
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body, "more_body": True})
    try:
        await body.discard()
    except ClientDisconnect:
        return
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _request_id() -> bytes:
    return b"req_" + secrets.token_hex(16).encode()
