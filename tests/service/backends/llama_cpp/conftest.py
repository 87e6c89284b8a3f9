"""A real llama.cpp server, in this process, with a model that is made on the spot."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import xllamacpp  # type: ignore[import-untyped]

from service.backends.llama_cpp.backend import LlamaCpp
from tests.models import tiny_gguf

KEY = "test-key"


@dataclass(frozen=True)
class LlamaAddress:
    url: str
    key: str


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def llama_address(tiny_weights: Path) -> Iterator[LlamaAddress]:
    params = xllamacpp.CommonParams()
    params.model.path = str(tiny_weights)
    params.verbosity = -1
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [KEY]
    params.endpoint_slots = True
    params.n_ctx, params.n_parallel = 8192, 2
    params.cache_ram_mib = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    yield LlamaAddress(server.listening_address, KEY)
    del server


@pytest.fixture
async def llama(llama_address: LlamaAddress) -> AsyncIterator[LlamaCpp]:
    backend = LlamaCpp(llama_address.url, llama_address.key, defaults={"temperature": 0})
    await backend.start()
    yield backend
    await backend.stop()
