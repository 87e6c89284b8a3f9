"""The gRPC face: the service of sessions and the server for all services."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from service.connection import Connection
from service.engine import Engine
from service.errors import Ending, SessionError, Unauthenticated
from service.identity import Identities, Identity
from service.limits import Limits
from service.paging import Page
from transports import grpc_conversations
from transports.errand import run_errand
from transports.following import follow
from transports.grpc_calls import Calls, as_json
from transports.grpc_conversations import ConversationService
from transports.grpc_outbox import Outbox, writes_in
from transports.grpc_server import GrpcServer
from transports.grpc_stream import Context, Stream, parse
from transports.health import Health
from transports.refusals import count_rejected
from transports.tls import Tls
from turnwire.delta import Event
from turnwire.v1 import session_service_pb2 as rpc

NAME = rpc.DESCRIPTOR.services_by_name["SessionService"].full_name


async def serve(
    engine: Engine,
    identities: Identities,
    limits: Limits,
    address: str,
    tls: Tls | None = None,
) -> GrpcServer:
    """Serve sessions, conversations, health and reflection on `host:port`."""

    def ready() -> bool:
        return engine.ready

    names = (NAME, grpc_conversations.NAME)
    calls = Calls(engine, identities, limits)
    handlers = [
        SessionService(engine, calls, limits).handler(),
        ConversationService(engine, calls).handler(),
        Health(dict.fromkeys(("", *names), ready)).handler(),
    ]
    server = grpc.aio.server(handlers=handlers, options=options(limits))
    offered = (*names, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(offered, server)
    return await GrpcServer.listen(server, address, tls)


class SessionService:
    """The calls of the contract. Takes and returns bytes: streams are encoded event by event."""

    def __init__(self, engine: Engine, calls: Calls, limits: Limits) -> None:
        self._engine = engine
        self._calls = calls
        self._limits = limits

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the calls, for a server to offer."""
        unary, answering = self._calls.unary, self._calls.answering
        calls = {
            "Connect": grpc.stream_stream_rpc_method_handler(answering(self._connect)),
            "Follow": grpc.unary_stream_rpc_method_handler(answering(self._follow)),
            "Start": unary(rpc.StartRequest, self._start),
            "Get": unary(rpc.GetRequest, self._get),
            "Delete": unary(rpc.DeleteRequest, self._delete),
            "Cancel": unary(rpc.CancelRequest, self._cancel),
            "ListInputItems": unary(rpc.ListInputItemsRequest, self._list_input_items),
            "Compact": unary(rpc.CompactRequest, self._compact),
            "ListModels": unary(rpc.ListModelsRequest, self._list_models),
        }
        return grpc.method_handlers_generic_handler(NAME, calls)

    async def _connect(self, requests: AsyncIterator[bytes], context: Context) -> None:
        stream = Stream(context, self._limits)
        await stream.run(requests, self._open(stream, context))

    def _open(self, stream: Stream, context: Context) -> Connection:
        """Open a connection. Raises `Refusal`, of which its being no connection is counted here."""
        try:
            return self._engine.connect(self._calls.caller_of(context), "grpc", stream)
        except Unauthenticated as refusal:
            count_rejected(self._engine, "grpc", refusal)
            raise

    async def _follow(self, data: bytes, context: Context) -> None:
        caller = self._calls.caller_of(context)
        request = parse(rpc.FollowRequest, data)
        after = request.starting_after if request.HasField("starting_after") else None
        events = await follow(self._engine, caller, request.response_id, after)
        async with aclosing(events):
            # Where the first write, which would say it, is cut, gRPC could not say a status.
            await context.send_initial_metadata(())
            async for batch in events:
                await self._send(batch, context)

    async def _send(self, events: Sequence[Event], context: Context) -> None:
        """Write a batch; nothing more is asked of the engine before it is on its way."""
        outbox = Outbox()
        for event in events:
            outbox.add_event(event)
        while outbox.size:
            await self._write(outbox.take(), context)

    async def _write(self, message: bytes, context: Context) -> None:
        try:
            async with asyncio.timeout(self._limits.send_deadline * writes_in(message)):
                await context.write(message)
        except TimeoutError:
            text = "The client reads too slowly. Follow the response again, and read."
            raise SessionError(Ending.SLOW_READER, text) from None

    async def _start(self, caller: Identity, request: rpc.StartRequest) -> rpc.StartResponse:
        create = as_json(request.create)
        create.settings.background = True
        return rpc.StartResponse(response=await self._engine.start(caller, create))

    async def _get(self, caller: Identity, request: rpc.GetRequest) -> rpc.GetResponse:
        response = await self._engine.responses.get(caller.tenant, request.response_id)
        return rpc.GetResponse(response=response)

    async def _delete(self, caller: Identity, request: rpc.DeleteRequest) -> rpc.DeleteResponse:
        return await self._engine.responses.delete(caller.tenant, request.response_id)

    async def _cancel(self, caller: Identity, request: rpc.CancelRequest) -> rpc.CancelResponse:
        response = await self._engine.responses.cancel(caller.tenant, request.response_id)
        return rpc.CancelResponse(response=response)

    async def _list_input_items(
        self, caller: Identity, request: rpc.ListInputItemsRequest
    ) -> rpc.ListInputItemsResponse:
        page = Page(request.after, request.limit, request.order)
        items = await self._engine.responses.input_items(caller.tenant, request.response_id, page)
        return rpc.ListInputItemsResponse(list=items)

    async def _compact(self, caller: Identity, request: rpc.CompactRequest) -> rpc.CompactResponse:
        create = as_json(request.create)

        async def compact() -> rpc.CompactResponse:
            return await self._engine.responses.compact(caller.tenant, create)

        return await run_errand(self._engine, caller, "grpc", compact)

    async def _list_models(
        self, caller: Identity, request: rpc.ListModelsRequest
    ) -> rpc.ListModelsResponse:
        del caller, request
        return self._engine.models()


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
