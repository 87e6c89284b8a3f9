"""Engines: token ids in, token ids out, and nobody parses for us.

An `Engine` is such a server by the wire that it speaks: gRPC in the dialects of `vllm`, `sglang` and
`trtllm`, or vLLM's HTTP. A `TokenEngine` makes a backend of one: it renders prompts, detokenises and
reads what was sampled, and keeps the ids.

Prompts of different tenants are kept apart in an engine's cache by a salt. Its HTTP knows one, the gRPC
of vLLM and of SGLang does not: there a tenant can time whether another one said the same, so that tenants
who must not be able to share no engine.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from service.backends import Capabilities
from service.conversation import Rendered
from service.rendering import Files
from service.rendering.encodings import Encoding


class Likely(NamedTuple):
    """A token that could have been sampled."""

    token: int
    logprob: float


class Score(NamedTuple):
    """How likely a sampled token was."""

    logprob: float
    likeliest: Sequence[Likely] = ()


class Sampled(NamedTuple):
    """More of an answer, with the token that ends it."""

    ids: Sequence[int]
    scores: Sequence[Score] = ()
    """Of each id, where they were asked for."""
    cached_tokens: int = 0
    """Tokens of the prompt that the engine did not have to compute, as far as it has told."""


class Ended(NamedTuple):
    """The engine will sample no more."""

    by_length: bool
    cached_tokens: int = 0


Event: TypeAlias = Sampled | Ended


class Constraint(NamedTuple):
    """What binds what a model can write."""

    kind: Literal["json_schema", "structural_tag"]
    text: str
    """JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What an engine is to do."""

    prompt: Sequence[Rendered]
    """In the engine's encoding; joined, it is the whole prompt."""
    model: str
    most: int
    """How many tokens may be sampled."""
    ends: Sequence[int]
    """Tokens that end the answer."""
    tenant: str
    conversation: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """What the client set about sampling, by the names that vLLM has for it."""
    constraint: Constraint | None = None
    likeliest: int | None = None
    """How many of the likeliest tokens are wanted with each token's score; None for no scores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """The model that an engine has loaded."""

    name: str
    context: int
    """How many tokens prompt and answer may have together."""


class Engine(Protocol):
    """A server that makes token ids of token ids."""

    kind: str
    """What it is, for people and for metrics: from a closed set."""
    encoding: Encoding
    capabilities: Capabilities

    async def model(self) -> Model:
        """Ask what the engine has loaded. Raises `ModelError`."""

    async def files(self) -> Files:
        """Get the files that come with the model. Raises `ModelError`."""

    async def check(self) -> None:
        """Ask whether it is well. Raises `ModelError`."""

    async def stop(self) -> None:
        """Let go of the connections."""

    def sample(self, request: Request) -> AsyncGenerator[Sequence[Event], None]:
        """Sample; each batch is what one read yielded, the last event is an `Ended`.

        Closing the generator stops the engine's work. Raises `ModelError`.
        """
