"""What adapters are in front of: the real llama.cpp, stand-ins around it, and Turnwire itself."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import httpx

from service.backends.llama_cpp.backend import LlamaCpp
from service.connection import ConnectionLimits
from service.engine import EngineLimits
from tests.conformance.server import serving
from tests.service.backends.engines.conftest import GrpcStandIn
from tests.stand_ins.chat_server import (
    Speech,
    chat_server,
)
from tests.stand_ins.engine_server import (
    Llama,
    Piece,
    VllmHttpStandIn,
    serving_http,
)
from tests.stand_ins.engine_server import serving as serving_grpc

_GUSH = 4000  # tokens in a message


@dataclass(frozen=True)
class Scene:
    """What a test has for its row."""

    llama_url: str
    """The real server, on a way on which is heard what it is asked."""
    llama_key: str
    weights: Path
    folder: Path
    """Empty, and the test's own."""


@dataclass(frozen=True)
class Address:
    """Where an adapter finds its server."""

    url: str
    key: str | None = None


Behind: TypeAlias = Callable[[Scene], AbstractAsyncContextManager[Address]]
"""Runs a server."""


def in_this_process(_scene: Scene) -> AbstractAsyncContextManager[Address]:
    return nullcontext(Address(""))


def real(scene: Scene) -> AbstractAsyncContextManager[Address]:
    return nullcontext(Address(scene.llama_url, scene.llama_key))


@asynccontextmanager
async def chat(speech: Speech, scene: Scene) -> AsyncIterator[Address]:
    async with chat_server(speech, scene.llama_url, scene.llama_key) as server:
        yield Address(server.url)


class Plain(Llama):
    """The real server behind a stand-in, without TLS: reading its certificates takes longer than a turn."""

    def _client(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=30, verify=False)


class Fountain(Llama):
    """A model that never comes to an end, as fast as it is listened to."""

    async def complete(
        self, ids: Sequence[int], options: Mapping[str, object]
    ) -> AsyncIterator[Piece]:
        while True:
            await asyncio.sleep(0)
            yield Piece([ord("x")] * _GUSH, 0, [])


@asynccontextmanager
async def grpc(
    stand_in: Callable[[Llama], GrpcStandIn], model: type[Llama], scene: Scene
) -> AsyncIterator[Address]:
    async with serving_grpc(stand_in(model(scene.llama_url, scene.llama_key))) as port:
        yield Address(f"grpc://127.0.0.1:{port}")


@asynccontextmanager
async def http(path: str, model: type[Llama], scene: Scene) -> AsyncIterator[Address]:
    server = VllmHttpStandIn(model(scene.llama_url, scene.llama_key), [path])
    async with serving_http(server.app) as port:
        yield Address(f"http://127.0.0.1:{port}")


@asynccontextmanager
async def turnwire(scene: Scene) -> AsyncIterator[Address]:
    (folder := scene.folder / "upstream").mkdir()
    # One that stops when it is left, as OpenAI's does; ours would go on for a while.
    limits = EngineLimits(connection=ConnectionLimits(grace=0))
    async with serving(LlamaCpp(scene.llama_url, scene.llama_key), folder, limits) as server:
        url = server.websocket_url.replace("ws", "http", 1).removesuffix("/v1/responses")
        yield Address(url, server.alice)
