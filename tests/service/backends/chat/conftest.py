"""Servers of the chat completions API: llama.cpp's own, and stand-ins for those that take ids."""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.backends.chat.backend import ChatCompletions
from service.backends.chat.server import ChatServer
from service.backends.http import Deadlines
from service.rendering import Piece
from service.rendering.encodings import Decimal
from service.rendering.proof import Proof
from service.rendering.renderer import Renderer
from tests.llama_servers import LlamaAddress, llama_address, tiny_weights
from tests.stand_ins import chat_server as stand_ins
from tests.stand_ins.chat_server import MODEL, TEMPLATE, Speech, chat_server, ids_of

__all__ = ["llama_address", "tiny_weights"]  # fixtures, for this package too

DEADLINES = Deadlines(connect=2, answer=5, read=5)


class Bytes:
    """The tiny model's vocabulary; it counts what it is asked."""

    identity = "bytes"

    def __init__(self) -> None:
        self.characters = 0

    async def encode(self, fragments: Iterable[Sequence[Piece]]) -> list[list[int]]:
        encoded = []
        for fragment in fragments:
            self.characters += sum(len(piece) for piece in fragment if isinstance(piece, str))
            encoded.append(ids_of(fragment))
        return encoded


@pytest.fixture
def vocabulary() -> Bytes:
    return Bytes()


@pytest.fixture
def renderer(vocabulary: Bytes) -> Renderer:
    return Renderer(TEMPLATE, vocabulary, Decimal(), Proof.never())


@pytest.fixture
async def messages(llama_address: LlamaAddress) -> AsyncIterator[ChatCompletions]:
    """llama.cpp's own chat completions, told messages."""
    server = ChatServer(
        url=llama_address.url,
        kind="llama.cpp-chat",
        api_key=llama_address.key,
        deadlines=DEADLINES,
    )
    backend = ChatCompletions(server)
    await backend.start()
    yield backend
    await backend.stop()


class Pair:
    """A stand-in, and the adapter in front of it."""

    def __init__(
        self, server: stand_ins.ChatServer, wanted: ChatServer, backend: ChatCompletions
    ) -> None:
        self.server = server
        self.wanted = wanted
        self.backend = backend


@asynccontextmanager
async def stand_in(
    speech: Speech, llama: LlamaAddress, renderer: Renderer | None, **wanted: Any
) -> AsyncIterator[Pair]:
    """Run a stand-in and an adapter that has asked it what it can do."""
    async with chat_server(speech, llama.url, llama.key) as server:
        described = {"kind": speech.name, "deadlines": DEADLINES, **wanted}
        made = {MODEL: renderer}.__getitem__ if renderer else None
        asked = ChatServer(url=server.url, renderer=made, **described)
        backend = ChatCompletions(asked)
        try:
            await backend.start()
            server.asked.clear()
            yield Pair(server, asked, backend)
        finally:
            await backend.stop()


def events(*chunks: Any) -> bytes:
    """Return chunks as a server streams them; text as it stands."""
    said = (chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks)
    return "".join(f"data: {event}\n\n" for event in said).encode()


def delta(reason: str | None = None, **members: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": members, "finish_reason": reason}]}
