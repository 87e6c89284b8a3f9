"""The model servers behind the service: which there are, how each fares, and which one a turn goes to.

A `Fleet` watches all of them. What it knows goes into one `Pool` for each model, which the engine sees
as that model's backend.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import SecretStr

from service.backends import Backend
from service.backends.http import Deadlines
from service.rendering.proof import Proof

Kind: TypeAlias = Literal[
    "llama.cpp",
    "llama.cpp-chat",
    "vllm",
    "vllm-generate",
    "vllm-grpc",
    "sglang",
    "sglang-grpc",
    "trtllm",
    "trtllm-grpc",
    "ollama",
    "lmstudio",
    "openai",
    "chat",
    "responses",
    "responses-websocket",
]
"""The ways of talking to a model server."""

TOLD_IN_IDS = frozenset({"vllm", "sglang", "trtllm"})
"""Servers of the chat completions API that take a conversation in token ids."""

TemplateSource: TypeAlias = Literal["auto", "jinja", "library", "harmony", "none"]
"""Where it is known from how a model is told a conversation; "none" is to send messages."""

State: TypeAlias = Literal["none", "stored", "connection"]
"""Who keeps a conversation at an upstream of the Responses API: nobody but us, its store, or each
connection for as long as it lasts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """One model server: where it is, and how it is spoken to."""

    name: str
    """The operator's name for it, in logs and metrics."""
    kind: Literal[Kind, "auto", "embedded", "simulator"] = "auto"
    """"auto" is found out by asking it."""
    url: str = ""
    """`http://`, `https://`, `grpc://` or `grpcs://`; empty for one in this process."""
    api_key: SecretStr | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What else every request carries. They may be secrets."""
    models: Mapping[str, str] = field(default_factory=dict)
    """What clients call its models, each with what it calls them; empty: those that it lists."""
    weight: float = 1.0
    """How many turns it takes in comparison with others."""
    tokenizer: Path | None = None
    """A directory with the model's tokenizer and template, where the server gives none away."""
    template: TemplateSource = "auto"
    context: int | None = None
    """Tokens of prompt and answer together, where the server does not say."""
    saved_conversations: int = 0
    """Conversations that a llama.cpp server saves to files when others take their slots."""
    state: State | None = None
    """Who keeps a conversation, of an upstream that can; None is what is usual for its kind."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    here: Callable[[Proof], Backend] | None = None
    """Makes the adapter of one in this process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Roster:
    """Who serves."""

    servers: Sequence[Server]
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Other names of models, each with the name that it stands for."""
    strict: bool = False
    """Whether every model must have a server that is up when the service starts."""


def alone(backend: Backend) -> Roster:
    """Have one backend of this process serve all that it can."""
    return in_process(backend.kind, lambda _: backend)


def in_process(name: str, make: Callable[[Proof], Backend]) -> Roster:
    """Have one backend that is made in this process serve all that it can."""
    return Roster(servers=[Server(name=name, kind="embedded", here=make)], strict=True)
