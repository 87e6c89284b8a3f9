"""Real llama.cpp servers, in this process, with models that are made on the spot."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import xllamacpp  # type: ignore[import-untyped]

from tests.models import tiny_gguf

KEY = "test-key"


@dataclass(frozen=True, kw_only=True)
class LlamaServer:
    """A server that is not running yet."""

    weights: Path
    alias: str | None = None
    port: int = 0
    key: str | None = None
    context: int = 4096
    """Tokens that all slots hold together."""
    slots: int = 1
    saves: Path | None = None
    """Where slots are saved; they are not if it is None."""

    def start(self) -> xllamacpp.Server:
        """Run it for as long as the result is held."""
        params = xllamacpp.CommonParams()
        params.model.path = str(self.weights)
        params.model_alias = {self.alias} if self.alias else set()
        params.verbosity = -1
        params.hostnames = ["127.0.0.1"]
        params.port = self.port
        params.api_keys = [self.key] if self.key else []
        params.endpoint_slots = True
        if self.saves:
            params.slot_save_path = f"{self.saves}/"
        params.n_ctx, params.n_parallel = self.context, self.slots
        params.cache_ram_mib = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
        return xllamacpp.Server(params)

    @contextmanager
    def running(self) -> Iterator[str]:
        """Run it; yield its URL."""
        server = self.start()
        yield server.listening_address
        del server


@dataclass(frozen=True)
class LlamaAddress:
    url: str
    key: str


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def llama_address(tiny_weights: Path) -> Iterator[LlamaAddress]:
    server = LlamaServer(weights=tiny_weights, key=KEY, context=8192, slots=2)
    with server.running() as url:
        yield LlamaAddress(url, KEY)
