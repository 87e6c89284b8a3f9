"""Conversations as token ids, each turn of them rendered and tokenised once.

A template says how one model is told a conversation, in pieces; a tokenizer makes ids of pieces. A
`Renderer` joins the two and keeps what they made: with the turns, whose ids never change, and, for
instructions and tools, which clients resend every turn, by content. What a model sampled is kept as
the ids that it sampled.

Templates and tokenizers are pure: the same for the same, always.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from service.errors import ModelError

Piece: TypeAlias = int | str
"""A token by its id, or text that cannot become a special token whatever it says."""

Message: TypeAlias = Mapping[str, Any]
"""A chat message as templates read it: `role` is system, user, assistant or tool; `content` is a
string; an assistant may have `reasoning_content` and `tool_calls` in the form of the chat completions
API, arguments as JSON text; a tool's answer has `tool_call_id`, and the `name` of the tool where it is
known."""


Files: TypeAlias = Mapping[str, bytes]
"""What comes with a model, by name: `tokenizer.json`, `tokenizer_config.json`, `chat_template.jinja`."""


class Cycle(enum.Enum):
    """Where a turn stands: many models are told their thoughts only until the user speaks again."""

    OPEN = "open"
    """No later turn has a message of the user."""
    CLOSED = "closed"
    """The user has spoken since."""


class Opening(NamedTuple):
    """What stands before the first turn, and may change from request to request."""

    messages: Sequence[Message]
    """Instructions: system messages, or examples in messages of any role."""
    tools: Sequence[Mapping[str, Any]]
    """In the form of the chat completions API: `{"type": "function", "function": {...}}`."""
    options: Mapping[str, Any]
    """What templates call it: `enable_thinking`, `reasoning_effort`; only what the client set."""


class Uncut(ModelError):
    """A turn of this conversation cannot be told by itself: the conversation is told at once."""

    def __init__(self) -> None:
        super().__init__(
            "server_error", "The model's chat template does not tell turns one by one."
        )


class Template(Protocol):
    """How one model is told a conversation.

    Where `additive`, this holds for all turns, each a list of messages that ends with the answer::

        whole(opening, turn 1 + ... + turn n + new messages) ==
            preamble(opening) + turn(1) + ... + turn(n) + turn(new messages) + answer_opens(opening)

    and a turn with the answer that the model sampled is
    `turn(its new messages) + answer_opens + what was sampled + answer_closes`, where the first token of
    `answer_closes` is the end of turn that the model samples itself unless it was stopped.
    """

    @property
    def identity(self) -> str:
        """Tells what it renders apart from what other templates do: goes into dialects."""

    @property
    def additive(self) -> bool:
        """Whether turns can be rendered one by one. If not, only `whole` and `answer_closes` count."""

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""

    @property
    def kept_ends(self) -> frozenset[int]:
        """Those of the `ends` that history has too; instead of the others it has `answer_closes`."""

    @property
    def answer_closes(self) -> Sequence[Piece]:
        """What ends an answer, and stands between it and the next turn."""

    def answer_opens(self, opening: Opening) -> Sequence[Piece]:
        """Return what makes the model answer."""

    def preamble(self, opening: Opening) -> Sequence[Piece]:
        """Render what stands before the first turn. Raises `ModelError` if this model cannot be told."""

    def turn(self, messages: Sequence[Message], cycle: Cycle) -> Sequence[Piece]:
        """Render a turn, whatever came before it.

        Raises `ModelError` if this model cannot be told, and `Uncut` if it can only be told at once.
        """

    def whole(self, opening: Opening, messages: Sequence[Message]) -> Sequence[Piece]:
        """Render a whole conversation up to where the model answers. Raises `ModelError`."""


class Tokenizer(Protocol):
    """Makes token ids of pieces."""

    @property
    def identity(self) -> str:
        """Tells the vocabulary apart from others."""

    async def encode(self, fragments: Iterable[Sequence[Piece]]) -> list[list[int]]:
        """Tokenise fragments, all at once: ids pass through, text never becomes a special token.

        Texts that stand side by side are tokenised one by one. Raises `ModelError`.
        """


class Detokenizer(Protocol):
    """Makes text of what one model samples, as far as it can be told.

    One for each answer: it holds back the bytes of a character that is not whole yet.
    """

    def push(self, ids: Sequence[int]) -> str:
        """Return the text of more tokens. Special tokens are spelled out, ends of answers are not."""

    def end(self) -> str:
        """Return what was held back: replacement characters for what never became whole."""
