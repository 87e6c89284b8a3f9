"""Real llama.cpp servers for the tests of fleets."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models import tiny_gguf
from tests.service.servers.llamas import Llama


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("model"))


@pytest.fixture
def llamas(weights: Path) -> Iterator[list[Llama]]:
    servers = [Llama(weights), Llama(weights)]
    for llama in servers:
        llama.start()
    yield servers
    for llama in servers:
        llama.kill()
