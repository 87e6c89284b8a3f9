"""The scripted server over real sockets, as small as each library allows."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from websockets.asyncio.server import ServerConnection, serve

from tests.compare.scripted import answer
from turnwire import json_codec
from turnwire.v1 import events_pb2, session_service_pb2, session_service_pb2_grpc


@asynccontextmanager
async def websocket_server(authorizations: list[str | None]) -> AsyncIterator[str]:
    async def handle(connection: ServerConnection) -> None:
        assert connection.request
        authorizations.append(connection.request.headers.get("authorization"))
        number = 0
        async for frame in connection:
            assert isinstance(frame, str)
            request = json_codec.decode(events_pb2.ClientEvent, frame)
            for event in answer(request.create, number):
                await connection.send(json_codec.encode(event), text=True)
            number += 1

    async with serve(handle, "127.0.0.1", 0) as server:
        yield f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/responses"


class _Servicer(session_service_pb2_grpc.SessionServiceServicer):
    def __init__(self, authorizations: list[str | None]) -> None:
        self._authorizations = authorizations

    async def Connect(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        metadata = dict(context.invocation_metadata())
        self._authorizations.append(metadata.get("authorization"))
        number = 0
        async for request in request_iterator:
            yield session_service_pb2.ConnectResponse(heartbeat=session_service_pb2.Heartbeat())
            yield session_service_pb2.ConnectResponse(
                events=answer(request.events[0].create, number)
            )
            number += 1


@asynccontextmanager
async def grpc_server(authorizations: list[str | None]) -> AsyncIterator[str]:
    server = grpc.aio.server()
    servicer: Any = _Servicer  # the other calls are inherited: unimplemented
    session_service_pb2_grpc.add_SessionServiceServicer_to_server(servicer(authorizations), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
