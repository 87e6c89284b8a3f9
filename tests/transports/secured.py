"""A whole service that speaks TLS on both ports, and clients that show certificates, or none."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from websockets.asyncio.client import connect

import transports.grpc
import transports.http
from service.backends.simulator.backend import Simulator
from service.engine import Engine, Policies
from service.identity import Identities
from service.limits import Limits
from tests.engines import engine_of
from tests.service.identity.authority import Authority, Issued
from transports.tls import Tls, TlsFiles
from turnwire.v1 import session_service_pb2 as rpc
from turnwire.v1 import session_service_pb2_grpc as stubs

DEADLINE = 15.0
USUAL = Limits()


@dataclass
class Secured:
    """A service under test, and where it keeps its certificates."""

    folder: Path
    engine: Engine
    http_port: int
    grpc_port: int

    def client_context(self, root: Authority, shown: Issued | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=root.pem.decode())
        if shown:
            context.load_cert_chain(*shown.write(self.folder, "shown"))
        return context

    def websocket(self, context: ssl.SSLContext | None, key: str | None = None) -> connect:
        scheme = "wss" if context else "ws"
        return connect(
            f"{scheme}://localhost:{self.http_port}/v1/responses",
            ssl=context,
            additional_headers={"Authorization": f"Bearer {key}"} if key else None,
            compression=None,
            proxy=None,
        )

    def channel(self, root: Authority | None, shown: Issued | None = None) -> grpc.aio.Channel:
        target = f"localhost:{self.grpc_port}"
        # Channels of one process would share a connection, and with it what was shown there.
        options = [("grpc.use_local_subchannel_pool", 1)]
        if root is None:
            return grpc.aio.insecure_channel(target, options=options)
        pair = (shown.key, shown.certificate) if shown else (None, None)
        credentials = grpc.ssl_channel_credentials(root.pem, *pair)
        return grpc.aio.secure_channel(target, credentials, options=options)


@asynccontextmanager
async def secured(
    folder: Path,
    identities: Identities,
    tls: TlsFiles | None,
    clock: Callable[[], float] = time.monotonic,
    limits: Limits = USUAL,
) -> AsyncIterator[Secured]:
    backend = Simulator()
    await backend.start()
    engine = engine_of(backend, policies=Policies(identities=identities))
    secure = Tls(tls, clock) if tls else None
    address = transports.http.Address("127.0.0.1", 0)
    http = await transports.http.serve(engine, identities, limits, address, secure)
    server = await transports.grpc.serve(engine, identities, limits, "127.0.0.1:0", secure)
    try:
        yield Secured(folder, engine, http.port, server.port)
    finally:
        await engine.drain(0)
        await http.stop()
        await server.stop(0)
        await backend.stop()


async def models_over(channel: grpc.aio.Channel, key: str | None = None) -> rpc.ListModelsResponse:
    """Make a call, with a key or without."""
    metadata = [("authorization", f"Bearer {key}")] if key else None
    stub = stubs.SessionServiceStub(channel)
    answer: rpc.ListModelsResponse = await stub.ListModels(
        rpc.ListModelsRequest(), metadata=metadata, timeout=DEADLINE
    )
    return answer


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)
