"""Which adapter speaks to which kind of model server: the one place where they are made."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from service.backends import Backend
from service.backends.chat.backend import ChatCompletions
from service.backends.chat.kinds import KINDS
from service.backends.chat.server import ChatServer
from service.backends.engines.backend import TokenEngine
from service.backends.engines.files import read_from
from service.backends.engines.rpc import Rpc
from service.backends.engines.sglang import Sglang
from service.backends.engines.trtllm import TensorRtLlm
from service.backends.engines.vllm import Vllm
from service.backends.engines.vllm_http import VllmHttp
from service.backends.engines.wires import Wire
from service.backends.llama_cpp.backend import LlamaCpp
from service.backends.responses.backend import Responses
from service.backends.responses.terms import Terms
from service.backends.simulator.backend import Simulator
from service.errors import ModelError
from service.rendering import Files
from service.rendering.encodings import Decimal
from service.rendering.formats import Format, Source, format_of
from service.rendering.proof import Proof
from service.rendering.renderer import Renderer
from service.servers import TOLD_IN_IDS, Server
from service.servers.detection import root_of

_WIRES: Mapping[str, Callable[[], Wire]] = {
    "vllm-grpc": Vllm,
    "sglang-grpc": Sglang,
    "trtllm-grpc": TensorRtLlm,
}


class Adapters:
    """Makes adapters. What it reads from disk for them it reads once."""

    def __init__(self, proof: Proof) -> None:
        """`proof` says which prompts are to be proven, and counts what came of it."""
        self._proof = proof
        self._formats = functools.cache(_format)

    def of(self, server: Server) -> Backend:
        """Make the adapter of a server whose kind is known. May block: a tokenizer is large.

        Raises `ModelError` for what this kind of server cannot be or do.
        """
        if server.here:
            return server.here(self._proof)
        if server.kind == "simulator":
            return Simulator(tuple(server.models.values()) or ("simulator",))
        if server.kind in KINDS:
            return self._chat(server)
        if server.kind.startswith("responses"):
            return self._responses(server)
        if server.headers:
            raise _bad("Headers can be set for chat completions and responses only.")
        return self._by_ids(server)

    def _chat(self, server: Server) -> ChatCompletions:
        ids = server.kind in TOLD_IN_IDS and server.template != "none" and server.tokenizer
        return ChatCompletions(
            ChatServer(
                url=server.url,
                kind=server.kind,
                api_key=_key(server),
                headers=server.headers,
                models=tuple(server.models.values()),
                context=server.context,
                renderer=functools.partial(self._renderer, server) if ids else None,
                deadlines=server.deadlines,
            )
        )

    def _responses(self, server: Server) -> Responses:
        websocket = server.kind == "responses-websocket"
        terms = Terms(
            transport="websocket" if websocket else "http",
            state=server.state or ("connection" if websocket else "none"),
        )
        return Responses(
            server.url,
            _key(server),
            models=tuple(server.models.values()),
            headers=server.headers,
            terms=terms,
            deadlines=server.deadlines,
        )

    def _by_ids(self, server: Server) -> Backend:
        url, key, deadlines = root_of(server.url), _key(server), server.deadlines
        if server.kind == "llama.cpp":
            return LlamaCpp(
                url, key, deadlines=deadlines, proof=self._proof, spilled=server.saved_conversations
            )
        formats = functools.partial(format_of, source=_source(server))
        if server.kind == "vllm-generate":
            engine = VllmHttp(url, _tokenizer(server), key, deadlines)
            return TokenEngine(engine, formats, self._proof)
        if wire := _WIRES.get(server.kind):
            return TokenEngine(Rpc(url, wire(), key, deadlines), formats, self._proof)
        raise _bad(f"There is no adapter for model servers of kind {server.kind}.")

    def _renderer(self, server: Server, model: str) -> Renderer:
        found = self._formats(_tokenizer(server), model, _source(server))
        return Renderer(found.template, found.tokenizer, Decimal(), self._proof)


def _format(directory: Path, model: str, source: Source) -> Format:
    files: Files = read_from(directory)
    return format_of(files, model, source)


def _tokenizer(server: Server) -> Path:
    if server.tokenizer is None:
        raise _bad(f"A server of kind {server.kind} hands out no tokenizer: name its directory.")
    return server.tokenizer


def _source(server: Server) -> Source:
    if server.template == "none":
        raise _bad(
            f"A server of kind {server.kind} is told conversations in ids: it needs a template."
        )
    return server.template


def _key(server: Server) -> str | None:
    return server.api_key.get_secret_value() if server.api_key else None


def _bad(message: str) -> ModelError:
    return ModelError("server_error", message)
