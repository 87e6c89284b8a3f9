"""The adapters that can drive vLLM, each a row of the suite."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from service.backends import Backend
from service.backends.chat.backend import ChatCompletions
from service.backends.chat.server import ChatServer
from service.backends.engines.backend import TokenEngine
from service.backends.engines.files import read_from
from service.backends.engines.rpc import Rpc
from service.backends.engines.vllm import Vllm
from service.backends.engines.vllm_http import VllmHttp
from service.backends.responses.backend import Responses
from service.backends.responses.terms import Terms
from service.rendering.encodings import Decimal
from service.rendering.formats import format_of
from service.rendering.proof import Outcome, Proof
from service.rendering.renderer import Renderer
from tests.vllm import lab
from tests.vllm.wires import Grpc, Json, Wire


@dataclass
class Proofs:
    """What proofs of token identity came to."""

    outcomes: list[Outcome]

    def proof(self) -> Proof:
        """Have every prompt proven."""
        return Proof(1, self.outcomes.append)


@dataclass(frozen=True)
class Row:
    """One adapter."""

    name: str
    face: str
    make: Callable[[int, Path, Proofs], Backend]
    """Of a port, the model's directory, and what is to hear of proofs."""
    wire: Wire | None = None
    """Where ids are to be found, if they go over it."""


def _messages(port: int, _model: Path, _proofs: Proofs) -> Backend:
    return ChatCompletions(ChatServer(url=f"http://127.0.0.1:{port}", kind="vllm"))


def _chat_ids(port: int, model: Path, proofs: Proofs) -> Backend:
    found = format_of(read_from(model), lab.MODEL)
    renderer = Renderer(found.template, found.tokenizer, Decimal(), proofs.proof())
    server = ChatServer(url=f"http://127.0.0.1:{port}", kind="vllm")
    return ChatCompletions(replace(server, renderer={lab.MODEL: renderer}.__getitem__))


def _generate(port: int, model: Path, proofs: Proofs) -> Backend:
    engine = VllmHttp(f"http://127.0.0.1:{port}", model)
    return TokenEngine(engine, format_of, proofs.proof())


def _grpc(port: int, _model: Path, proofs: Proofs) -> Backend:
    engine = Rpc(f"grpc://127.0.0.1:{port}", Vllm())
    return TokenEngine(engine, format_of, proofs.proof())


def _responses(port: int, _model: Path, _proofs: Proofs) -> Backend:
    return Responses(f"http://127.0.0.1:{port}", terms=Terms(salt="tenant"))


ROWS = (
    Row("chat-messages", "http", _messages),
    Row("chat-ids", "http", _chat_ids, Json()),
    Row("generate", "http", _generate, Json()),
    Row("responses", "http", _responses),
    Row("grpc", "grpc", _grpc, Grpc()),
)
