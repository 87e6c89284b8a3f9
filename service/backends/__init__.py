"""Model servers, each behind the same small port.

A backend turns a `Prompt` into batches of what the model produced. One batch is whatever one read
from the model server yielded: it is never held back to grow. Backends own no tasks; the engine
iterates `generate` and closes it when the client is gone, which must stop the model server's work.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple, Protocol, TypeAlias

from service.conversation import Renderings, Segment
from turnwire.v1 import items_pb2, responses_pb2


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is to continue: sealed history, then what is new."""

    history: Sequence[Segment]
    """Oldest first. `Segment.rendered` holds, by dialect, what was rendered before: a backend reads and
    adds what is in its own dialects, named after form, model and template, never after a tenant."""
    input: Sequence[items_pb2.Item]
    """The new items of this turn, legible."""
    legible: Callable[[Sequence[items_pb2.Item]], Sequence[items_pb2.Item]]
    """Makes a segment's items what a model can be told: opens what was compacted."""
    model: str
    """What the model server calls the model."""
    settings: responses_pb2.Settings
    """Instructions, sampling. What the client left open is the model server's choice."""
    tools: Sequence[items_pb2.Tool]
    """What may be called: the request's tools, then those that the conversation added."""
    logprobs: bool
    """Whether text is wanted as `ScoredText`, where the model server can tell."""
    extra_json: str
    """Members of the request that the contract does not know: for model servers that may."""
    conversation: str
    """The same for all turns of a conversation tree: a hint where its cache is."""
    tenant: str
    """Whose conversation it is: caches are never shared between tenants."""
    store: bool = False
    """Whether the turn may be stored: what may not is never written, by nobody."""
    include: frozenset[str] = frozenset()
    """What the client wants in the output beyond the usual, as the protocol names it."""


class Text(NamedTuple):
    """More of the answer's text."""

    text: str


class ScoredText(NamedTuple):
    """More of the answer's text, with how likely its tokens were."""

    text: str
    logprobs: Sequence[items_pb2.Logprob]


class RefusalText(NamedTuple):
    """More of a refusal."""

    text: str


class ReasoningText(NamedTuple):
    """More of the reasoning itself."""

    text: str


class ReasoningSummaryText(NamedTuple):
    """More of a summary of the reasoning."""

    text: str


class FunctionCallBegins(NamedTuple):
    """The model calls a function; its arguments follow as `CallText`."""

    name: str
    namespace: str | None = None


class CustomCallBegins(NamedTuple):
    """The model calls a custom tool; its input follows as `CallText`."""

    name: str
    namespace: str | None = None


class CallText(NamedTuple):
    """More of the arguments or the input of the call that began last."""

    text: str


class WholeItem(NamedTuple):
    """What the model server made by itself and tells at once: the call of a tool of its own, say."""

    item: items_pb2.Item


class ItemEnds(NamedTuple):
    """The open item is finished, although another of the same kind may follow."""


class Finished(NamedTuple):
    """The model stopped. Always the last of the last batch."""

    reason: Literal["stop", "length", "content_filter"]
    input_tokens: int
    cached_tokens: int
    """Tokens of the input that the model server did not have to compute."""
    output_tokens: int
    reasoning_tokens: int = 0
    rendered: Renderings = MappingProxyType({})
    """This turn's input and output as the next turn's history, from sampled ids where there are any."""

    @property
    def cost(self) -> int:
        """Tokens that were computed: of the input as far as it was not cached, and the output."""
        return max(0, self.input_tokens - self.cached_tokens) + self.output_tokens


Produced: TypeAlias = (
    Text
    | ScoredText
    | RefusalText
    | ReasoningText
    | ReasoningSummaryText
    | FunctionCallBegins
    | CustomCallBegins
    | CallText
    | WholeItem
    | ItemEnds
    | Finished
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What a model server can do with a conversation that is kept for it."""

    tokens_in: Literal["none", "completion", "chat"] = "none"
    """Whether prompts are token ids: for a plain completion, or with the server's own parsers behind it."""
    tokens_out: bool = False
    """Whether it says which ids it sampled."""
    parses: bool = True
    """Whether it tells text, reasoning and calls apart; otherwise that is done here."""
    hint: Literal["none", "slot", "salt", "header", "state"] = "none"
    """How it is told where a conversation's cache is, and that tenants share none."""
    abort: Literal["disconnect", "call"] = "disconnect"
    """How it is told to stop."""


class Backend(Protocol):
    """A model server."""

    kind: str
    """What it is, for people and for metrics: from a closed set."""

    @property
    def models(self) -> Sequence[str]:
        """The names of the models it serves."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; known once it has started."""

    async def start(self) -> None:
        """Get ready. Raises `ModelError` with a message for the operator if that cannot be."""

    async def stop(self) -> None:
        """Let go of everything."""

    async def check(self) -> None:
        """Ask the model server whether it is well, in a second or two. Raises `ModelError` if not."""

    async def prepare(self, prompt: Prompt) -> Renderings:
        """Do for a warm-up all that can be done before generating; return the input, rendered."""

    def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        """Generate. Closing the generator stops the model server's work.

        Raises `ModelError`, and `Unavailable` where another server of the same model may be asked
        instead, provided that nothing was yielded yet.
        """
