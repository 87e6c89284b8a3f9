"""Adapters, made for an address: each with what an operator would have told it."""

from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TypeAlias

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from service.backends import Backend, Capabilities, Produced, Prompt
from service.backends.chat.backend import ChatCompletions
from service.backends.chat.server import ChatServer
from service.backends.engines.backend import TokenEngine
from service.backends.engines.rpc import Rpc
from service.backends.engines.vllm_http import VllmHttp
from service.backends.engines.wires import Wire as EngineWire
from service.backends.http import Deadlines
from service.backends.llama_cpp.backend import LlamaCpp
from service.backends.llama_cpp.embedded import Embedded, EmbeddedModel
from service.backends.responses.backend import Responses
from service.backends.responses.terms import Terms
from service.backends.simulator.backend import Simulator, Speed
from service.conversation import Renderings
from service.metrics import Metrics
from service.rendering.encodings import Decimal
from service.rendering.proof import Proof
from service.rendering.renderer import Renderer
from service.router import Router
from service.servers import Roster, Server
from service.servers.adapters import Adapters
from service.servers.fleet import Fleet
from service.servers.member import Pace
from tests.adapters.servers import Address, Scene
from tests.service.backends.chat.conftest import Bytes
from tests.service.backends.engines.conftest import formats
from tests.stand_ins.chat_server import (
    MODEL,
    TEMPLATE,
)
from tests.stand_ins.tiny_tokenizer import tiny_files

Make: TypeAlias = Callable[[Address, Deadlines, Scene], Backend]
"""Makes an adapter."""

NO_PROOF = Proof.never()
_NEVER = Pace(interval=3600, patience=5, failures=1_000_000)
"""A pool's servers are asked whatever became of the turns before: a turn finds out itself."""


def llama_cpp(address: Address, deadlines: Deadlines, _scene: Scene) -> Backend:
    return LlamaCpp(address.url, address.key, deadlines=deadlines)


def embedded(_address: Address, _deadlines: Deadlines, scene: Scene) -> Backend:
    return Embedded(
        EmbeddedModel(weights=scene.weights, name=MODEL, context=8192, slots=2, threads=1)
    )


def simulator(_address: Address, _deadlines: Deadlines, _scene: Scene) -> Backend:
    return Simulator(speed=Speed(tokens_per_second=500), context_tokens=4096)


def messages(kind: str, address: Address, deadlines: Deadlines, _scene: Scene) -> Backend:
    server = ChatServer(url=address.url, kind=kind, api_key=address.key, deadlines=deadlines)
    return ChatCompletions(server)


def chat_ids(kind: str, address: Address, deadlines: Deadlines, _scene: Scene) -> Backend:
    renderers = {MODEL: Renderer(TEMPLATE, Bytes(), Decimal(), NO_PROOF)}
    server = ChatServer(
        url=address.url, kind=kind, renderer=renderers.__getitem__, deadlines=deadlines
    )
    return ChatCompletions(server)


def rpc(
    wire: Callable[[], EngineWire], address: Address, deadlines: Deadlines, _scene: Scene
) -> Backend:
    return TokenEngine(Rpc(address.url, wire(), deadlines=deadlines), formats, NO_PROOF)


def vllm_http(address: Address, deadlines: Deadlines, scene: Scene) -> Backend:
    (tokenizer := scene.folder / "tokenizer").mkdir(exist_ok=True)
    for name, data in tiny_files().items():
        (tokenizer / name).write_bytes(data)
    return TokenEngine(VllmHttp(address.url, tokenizer, deadlines=deadlines), formats, NO_PROOF)


def responses(terms: Terms, address: Address, deadlines: Deadlines, _scene: Scene) -> Backend:
    return Responses(address.url, address.key, terms=terms, deadlines=deadlines)


class _Pooled:
    """A pool of two llama.cpp servers with the fleet that it needs: as one backend, like the others."""

    kind = "pool"

    def __init__(self, address: Address, deadlines: Deadlines) -> None:
        key = SecretStr(address.key) if address.key else None
        servers = [
            Server(name=name, kind="llama.cpp", url=address.url, api_key=key, deadlines=deadlines)
            for name in ("one", "two")
        ]
        self._router = Router()
        roster = Roster(servers=servers, strict=True)
        make = Adapters(NO_PROOF).of
        self._fleet = Fleet(roster, self._router, make, Metrics(CollectorRegistry()), _NEVER)

    @property
    def models(self) -> Sequence[str]:
        return [name for name, _ in self._router.models]

    @property
    def capabilities(self) -> Capabilities:
        return self.pool.capabilities

    @property
    def pool(self) -> Backend:
        return self._router.backend(self.models[0])

    async def start(self) -> None:
        await self._fleet.start()

    async def stop(self) -> None:
        await self._fleet.stop()

    async def check(self) -> None:
        await self.pool.check()

    async def prepare(self, prompt: Prompt) -> Renderings:
        return await self.pool.prepare(prompt)

    def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        return self.pool.generate(prompt)


def pool(address: Address, deadlines: Deadlines, _scene: Scene) -> Backend:
    return _Pooled(address, deadlines)
