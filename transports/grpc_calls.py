"""What all calls over gRPC have in common: who calls, what they sent, and how failures are said."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Never, TypeVar

import grpc
import structlog
from google.protobuf.message import Message

from service.errors import Ending, Refusal, SessionError
from service.keys import Keys
from transports.grpc_stream import Context, parse
from transports.status import STATUS
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


class Unary:
    """Makes calls that take one message and return one."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def __call__(
        self, kind: type[M], call: Callable[[str, M], Awaitable[Message]]
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        """Return the call for a server to offer. `call` takes the caller's tenant and a `kind`."""

        async def answer(data: bytes, context: Context) -> bytes:
            tenant = tenant_of(self._keys, context)
            return (await call(tenant, parse(kind, data))).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answering(answer))


def tenant_of(keys: Keys, context: Context) -> str:
    """Return whose call it is. Raises `Unauthenticated`."""
    authorization = dict(context.invocation_metadata() or ()).get("authorization")
    return keys.tenant_of(str(authorization) if authorization is not None else None)


def as_json(message: M) -> M:
    """Return a message as if it had come as JSON. Raises `Refusal` if it could not have."""
    try:
        return json_codec.canonical(message)
    except json_codec.InvalidJson as invalid:
        raise Refusal.of_invalid(invalid) from None


def answering(
    call: Callable[[Request, Context], Awaitable[Answer]],
) -> Callable[[Request, Context], Awaitable[Answer]]:
    """Say in gRPC's words how a call failed. What was not meant to fail is logged, and not told."""

    async def answer(request: Request, context: Context) -> Answer:
        try:
            return await _told(call(request, context), context)
        except grpc.aio.AbortError:
            raise
        except grpc.aio.BaseError as over:
            # The client has left, so nobody is there to be told; gRPC would log it as a failure.
            raise asyncio.CancelledError from over

    return answer


async def _told(answer: Awaitable[Answer], context: Context) -> Answer:
    try:
        return await answer
    except Refusal as refusal:
        trailers = (("turnwire-code", refusal.code),)
        await context.abort(REFUSED[refusal.status], refusal.message, trailers)
    except SessionError as error:
        await _abort(context, error)
    except grpc.aio.BaseError:
        raise
    except Exception:
        _logger.exception("call_failed", transport="grpc")
        await _abort(context, SessionError(Ending.INTERNAL, "Internal error."))


async def _abort(context: Context, error: SessionError) -> Never:
    """End a call. Behind unread messages the status waits for the client, as HTTP/2 has it."""
    trailers = (("turnwire-ending", error.ending.value),)
    await context.abort(STATUS[error.ending].grpc_code, error.message, trailers)
