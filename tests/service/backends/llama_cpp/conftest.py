"""A real llama.cpp server, and the adapter in front of it."""

from collections.abc import AsyncIterator

import pytest

from service.backends.llama_cpp.backend import LlamaCpp
from tests.llama_servers import LlamaAddress, llama_address, tiny_weights

__all__ = ["llama_address", "tiny_weights"]  # fixtures, for this package


@pytest.fixture
async def llama(llama_address: LlamaAddress) -> AsyncIterator[LlamaCpp]:
    backend = LlamaCpp(llama_address.url, llama_address.key, defaults={"temperature": 0})
    await backend.start()
    yield backend
    await backend.stop()
