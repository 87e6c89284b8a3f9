"""Clients who say no canaries, and must be told none: of the same tenant, and of another one."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from tests.canaries.sinks import Kept
from tests.canaries.speech import frame
from tests.canaries.talking import in_time, is_last
from tests.canaries.watched import Watched

_PROBES = (
    ("GET", "/models"),
    ("GET", "/responses/resp_0000000000000000000000000000000"),
    ("GET", "/conversations/conv_0000000000000000"),
    ("POST", "/responses"),
    ("GET", "/nothing"),
)


class Bystanders:
    """Connections that stand by while others speak."""

    def __init__(self, service: Watched) -> None:
        self.told = Kept(
            "what other connections are told: same tenant, and another's", b"completed"
        )
        self._service = service
        self._connections: list[ClientConnection] = []

    @asynccontextmanager
    async def standing(self) -> AsyncIterator[None]:
        """Be connected for as long as the context lasts; at its end note how connections end."""
        async with AsyncExitStack() as stack:
            for key in self._service.keys.values():
                headers = {"Authorization": f"Bearer {key}"}
                connection = connect(
                    self._service.address.websocket_url, additional_headers=headers, proxy=None
                )
                self._connections.append(await stack.enter_async_context(connection))
            yield
            await asyncio.gather(*map(self._hear_out, self._connections))

    async def ask(self) -> None:
        """Have a turn on each connection, be refused on each, and look around over HTTP."""
        for connection in self._connections:
            for model in ("", "none"):
                await self._have(connection, model)
        for key in self._service.keys.values():
            await self._look(key)

    async def _have(self, connection: ClientConnection, model: str) -> None:
        said = {"model": model or self._service.model, "input": "hello", "store": False}
        await connection.send(frame({**said, "max_output_tokens": 16}))
        async with in_time():
            while True:
                heard = await connection.recv(decode=False)
                self.told.keep(heard)
                if is_last(json.loads(heard)):
                    return

    async def _look(self, key: str) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        url = self._service.address.http_url
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
            for method, path in _PROBES:
                answer = await client.request(method, path)
                self.told.keep(repr(answer.headers), answer.content)

    async def _hear_out(self, connection: ClientConnection) -> None:
        async with in_time():
            with suppress(ConnectionClosed):
                while True:
                    self.told.keep(await connection.recv(decode=False))
        self.told.keep(connection.close_reason or "")
