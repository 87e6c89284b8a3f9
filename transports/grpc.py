"""The gRPC face: authenticates, decodes, and says failures as statuses."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Never, TypeVar

import grpc
import structlog
from google.protobuf.message import Message
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from service.engine import Engine
from service.errors import Ending, Refusal, SessionError, Unauthenticated
from service.keys import Keys
from service.limits import Limits
from transports.grpc_server import GrpcServer
from transports.grpc_stream import Context, Stream, parse
from transports.health import Health
from transports.status import STATUS
from turnwire.v1 import session_service_pb2 as rpc

NAME = rpc.DESCRIPTOR.services_by_name["SessionService"].full_name
REFUSED = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
"""What a refusal's HTTP status is called here."""

Request = TypeVar("Request")
Answer = TypeVar("Answer")

_logger: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


async def serve(engine: Engine, keys: Keys, limits: Limits, address: str) -> GrpcServer:
    """Serve sessions, health and reflection on `host:port`."""

    def ready() -> bool:
        return engine.ready

    sessions = SessionService(engine, keys, limits)
    handlers = [sessions.handler(), Health({"": ready, NAME: ready}).handler()]
    server = grpc.aio.server(handlers=handlers, options=options(limits))
    offered = (NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(offered, server)
    return await GrpcServer.listen(server, address)


class SessionService:
    """The calls of the contract. Takes and returns bytes: streams are encoded event by event."""

    def __init__(self, engine: Engine, keys: Keys, limits: Limits) -> None:
        self._engine = engine
        self._keys = keys
        self._limits = limits

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the calls, for a server to offer."""
        calls = {
            "Connect": grpc.stream_stream_rpc_method_handler(_answering(self._connect)),
            "Get": self._unary(self._get),
            "Delete": self._unary(self._delete),
            "ListModels": self._unary(self._list_models),
        }
        for name in ("Cancel", "ListInputItems", "Compact"):
            calls[name] = grpc.unary_unary_rpc_method_handler(_answering(self._unimplemented))
        return grpc.method_handlers_generic_handler(NAME, calls)

    async def _connect(self, requests: AsyncIterator[bytes], context: Context) -> None:
        try:
            tenant = self._tenant(context)
        except Unauthenticated:
            self._engine.rejected("grpc", "auth")
            raise
        stream = Stream(context, self._limits)
        await stream.run(requests, self._engine.connect(tenant, "grpc", stream))

    async def _get(self, tenant: str, data: bytes) -> rpc.GetResponse:
        request = parse(rpc.GetRequest, data)
        return rpc.GetResponse(response=await self._engine.get(tenant, request.response_id))

    async def _delete(self, tenant: str, data: bytes) -> rpc.DeleteResponse:
        request = parse(rpc.DeleteRequest, data)
        await self._engine.delete(tenant, request.response_id)
        return rpc.DeleteResponse(response_id=request.response_id)

    async def _list_models(self, tenant: str, data: bytes) -> rpc.ListModelsResponse:
        del tenant
        parse(rpc.ListModelsRequest, data)
        models = (rpc.Model(id=name, owned_by=kind) for name, kind in self._engine.models())
        return rpc.ListModelsResponse(models=models)

    async def _unimplemented(self, data: bytes, context: Context) -> bytes:
        del data
        self._tenant(context)
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Not implemented in this version.")

    def _unary(
        self, call: Callable[[str, bytes], Awaitable[Message]]
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        async def answer(data: bytes, context: Context) -> bytes:
            return (await call(self._tenant(context), data)).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(_answering(answer))

    def _tenant(self, context: Context) -> str:
        authorization = dict(context.invocation_metadata() or ()).get("authorization")
        return self._keys.tenant_of(str(authorization) if authorization is not None else None)


def _answering(
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


def options(limits: Limits) -> list[tuple[str, int]]:
    """Return channel arguments. gRPC ignores names that it does not know: a test looks for them."""
    return [
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_concurrent_streams", 4096),
        # A burst beyond these is refused; the defaults, 1000 and 3000, are less than a reconnect.
        ("grpc.server.max_pending_requests", 16_384),
        ("grpc.server.max_pending_requests_hard_limit", 32_768),
        ("grpc.server_handshake_timeout_ms", int(limits.handshake_deadline * 1000)),
        ("grpc.so_reuseport", 0),  # two servers on a port by mistake would share its connections
        ("grpc.keepalive_time_ms", int(limits.ping_interval * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.ping_timeout * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", int(limits.ping_interval * 500)),
    ]
