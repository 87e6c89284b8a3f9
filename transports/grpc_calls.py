"""What all calls over gRPC have in common: who calls, what they sent, and how failures are said."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Never, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from service.engine import Engine
from service.errors import Ending, Failed, Refusal, SessionError, Unauthenticated
from service.identity import Credentials, Identities, Identity
from service.limits import Limits
from transports.grpc_stream import Context, parse
from transports.large_answers import LargeAnswers, encoded, is_large
from transports.refusals import SMALL, MessageTooLarge, count_refused
from transports.status import STATUS
from transports.tls import shown_in
from turnwire import json_codec

REFUSED = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    501: grpc.StatusCode.UNIMPLEMENTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""What a refusal's HTTP status is called here."""

M = TypeVar("M", bound=Message)
Request = TypeVar("Request")
Answer = TypeVar("Answer")

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Calls:
    """Makes calls of what answers them: says in gRPC's words how one failed, and counts it."""

    def __init__(self, engine: Engine, identities: Identities, limits: Limits) -> None:
        self._engine = engine
        self._identities = identities
        self._most = limits.message_bytes
        self._large_answers = LargeAnswers()

    def unary(
        self, kind: type[M], call: Callable[[Identity, M], Awaitable[Message]]
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Offer a call that takes one message and returns one. `call` takes the caller too."""
        return self._unary(kind, call, self._most)

    def small_unary(
        self, kind: type[M], call: Callable[[Identity, M], Awaitable[Message]]
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Offer such a call that takes few items, of which some may be images."""
        return self._unary(kind, call, min(SMALL, self._most))

    def answering(
        self, call: Callable[[Request, Context], Awaitable[Answer]]
    ) -> Callable[[Request, Context], Awaitable[Answer]]:
        """Say how a call failed. What was not meant to fail is logged, and not told."""

        async def answer(request: Request, context: Context) -> Answer:
            try:
                return await self._told(call(request, context), context)
            except grpc.aio.AbortError:
                raise
            except grpc.aio.BaseError as over:
                # The client has left, so nobody is there to be told; gRPC would log it as a failure.
                raise asyncio.CancelledError from over

        return answer

    def caller_of(self, context: Context) -> Identity:
        """Return whose call it is. Raises `Unauthenticated`, also for one who has two keys."""
        metadata = context.invocation_metadata() or ()
        authorizations = [str(value) for key, value in metadata if key == "authorization"]
        if len(authorizations) > 1:
            raise Unauthenticated
        authorization = authorizations[0] if authorizations else None
        shown = shown_in(context.auth_context())
        return self._identities.identify(Credentials(authorization, *shown))

    def _unary(
        self, kind: type[M], call: Callable[[Identity, M], Awaitable[Message]], most: int
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def answer(data: bytes, context: Context) -> bytes:
            caller = self.caller_of(context)
            if len(data) > most:
                raise MessageTooLarge(f"{most} bytes")
            message = await call(caller, parse(kind, data))
            if is_large(message):
                return await self._large(message, caller.tenant, context)
            return message.SerializeToString()

        return grpc.unary_unary_rpc_method_handler(self.answering(answer))

    async def _large(self, message: Message, tenant: str, context: Context) -> bytes:
        """Encode a large message; it has its place until it is written, or its client has left."""
        leave = await self._large_answers.take(tenant)
        context.add_done_callback(lambda _: leave())  # type: ignore[arg-type]  # the stub is no protocol
        return await encoded(message, type(message).SerializeToString)

    async def _told(self, answer: Awaitable[Answer], context: Context) -> Answer:
        try:
            return await answer
        except Refusal as refusal:
            count_refused(self._engine, "grpc", refusal)
            trailers = (("turnwire-code", refusal.code),)
            await context.abort(REFUSED[refusal.status], refusal.message, trailers)
        except SessionError as error:
            await _abort(context, error)
        except grpc.aio.BaseError:
            raise
        except Exception:
            _logger.exception("call_failed", transport="grpc")
            count_refused(self._engine, "grpc", Failed())
            await _abort(context, SessionError(Ending.INTERNAL, "Internal error."))


def as_json(message: M) -> M:
    """Return a message as if it had come as JSON. Raises `Refusal` if it could not have."""
    try:
        return json_codec.canonical(message)
    except json_codec.InvalidJson as invalid:
        raise Refusal.of_invalid(invalid) from None


async def _abort(context: Context, error: SessionError) -> Never:
    """End a call. Behind unread messages the status waits for the client, as HTTP/2 has it."""
    trailers = (("turnwire-ending", error.ending.value),)
    await context.abort(STATUS[error.ending].grpc_code, error.message, trailers)
