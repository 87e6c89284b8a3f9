"""Engines in front of a real llama.cpp, in this process, with a model that is made on the spot."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import pytest

from service.backends.engines.backend import TokenEngine
from service.backends.engines.rpc import Rpc
from service.backends.engines.sglang import Sglang
from service.backends.engines.vllm import Vllm
from service.backends.engines.wires import Wire
from service.backends.http import Deadlines
from service.rendering import Files
from service.rendering.formats import Format
from service.rendering.proof import Outcome, Proof
from tests.llama_servers import KEY, LlamaServer
from tests.models import tiny_gguf
from tests.stand_ins.engine_server import Llama, Plug, SglangStandIn, VllmStandIn, serving
from tests.stand_ins.tiny_tokenizer import tiny_format

GrpcStandIn: TypeAlias = VllmStandIn | SglangStandIn
Kind: TypeAlias = tuple[Callable[[Llama], GrpcStandIn], Callable[[], Wire]]
WIRES: dict[str, Kind] = {
    "vllm": (VllmStandIn, Vllm),
    "sglang": (SglangStandIn, Sglang),
}


@pytest.fixture(scope="session")
def llama_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    weights = tiny_gguf(tmp_path_factory.mktemp("model"))
    with LlamaServer(weights=weights, key=KEY).running() as url:
        yield url


@dataclass
class Bench:
    """A backend, the engine behind it, and the cable between them."""

    backend: TokenEngine
    engine: Rpc
    servicer: GrpcStandIn
    plug: Plug
    outcomes: list[Outcome]


def formats(files: Files, model: str) -> Format:
    return tiny_format(files, model)


@pytest.fixture(params=WIRES)
async def bench(request: pytest.FixtureRequest, llama_url: str) -> AsyncIterator[Bench]:
    stand_in, wire = WIRES[request.param]
    servicer = stand_in(Llama(llama_url, KEY))
    outcomes: list[Outcome] = []
    async with serving(servicer) as port, Plug(port).plugged() as plug:
        deadlines = Deadlines(connect=2, answer=10, read=10)
        engine = Rpc(f"grpc://127.0.0.1:{plug.port}", wire(), deadlines=deadlines)
        backend = TokenEngine(engine, formats, Proof(1, outcomes.append))
        await backend.start()
        yield Bench(backend, engine, servicer, plug, outcomes)
        await backend.stop()
