"""How a chat server is told a conversation: as messages, or by the ids of its tokens."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import structlog

from service.backends import Prompt
from service.backends.chat.chunks import Chunks
from service.backends.chat.fragments import Fragments
from service.backends.chat.kinds import Carrier
from service.backends.chat.openings import Opening
from service.backends.window import Window, most_tokens
from service.conversation import Renderings
from service.errors import ModelError
from service.rendering.renderer import RenderedPrompt, Renderer

log = structlog.get_logger(__name__)

_SHORTENINGS = 4  # of one prompt, each of which costs a request
_TOO_LONG = ModelError(
    "context_length_exceeded", "The conversation does not fit the model's context."
)
_ECHO = b'"prompt_token_ids":'
_NOBODY = b'"messages":[{"role":"user","content":"-"}],'
"""Servers want a message even where they are told by ids."""


class Told(Protocol):
    """A conversation in the form in which a server is told it."""

    def members(self) -> list[bytes]:
        """Return the members of a request that hold it, serialised."""

    @property
    def asks(self) -> Mapping[str, Any]:
        """What is to be told with the answer."""

    def limit(self, prompt: Prompt) -> int | None:
        """Return how many tokens may be generated, where there is a limit. Raises `ModelError`."""

    def read(self, events: Sequence[bytes]) -> Sequence[bytes]:
        """Return what of a stream's events is the answer's."""

    def answered(self, answer: Chunks) -> Renderings:
        """Return the turn as the next turn's history, as far as that is known."""

    def shortened(self) -> bool:
        """Leave out some of the oldest, if that is possible."""


class ToldInMessages:
    """A conversation as messages. What an answer is called in the next turn, its items say."""

    def __init__(
        self, prompt: Prompt, opening: Opening, fragments: Fragments, context: int | None
    ) -> None:
        """Raises `ModelError` for what no model can be told."""
        self._prompt = prompt
        self._opening = opening
        self._fragments = fragments
        self._context = context
        self._whole = fragments.turns(prompt, opening.toolbox)
        self._turns = self._whole
        self._window: Window | None = None
        self._shortenings = 0

    def members(self) -> list[bytes]:
        """Return all messages."""
        parts = [self._opening.instructions, *(turn.data for turn in self._turns)]
        return [b'"messages":[', b",".join(filter(None, parts)), b"]"]

    @property
    def asks(self) -> Mapping[str, Any]:
        """Nothing beyond the answer."""
        return {}

    def limit(self, prompt: Prompt) -> int | None:
        """Return what was asked for. Some servers refuse more than the whole context."""
        asked = prompt.settings.max_output_tokens
        return min(asked, self._context) if asked and self._context else asked or None

    def read(self, events: Sequence[bytes]) -> Sequence[bytes]:
        """Return all of it."""
        return events

    def answered(self, answer: Chunks) -> Renderings:
        """Return nothing: ids of calls are given later, and the next turn serialises them."""
        del answer
        return {}

    def shortened(self) -> bool:
        """Leave out the oldest, by an estimate of how long it is: nobody else counts."""
        self._shortenings += 1
        if self._prompt.settings.truncation != "auto" or self._shortenings > _SHORTENINGS:
            return False
        tokens = [turn.tokens for turn in self._whole]
        context = self._context or sum(tokens)
        self._window = self._window or Window(self._prompt, tokens, context)
        left = sum(turn.tokens for turn in self._turns)
        excess = max(left - most_tokens(self._prompt.settings, context), left // _SHORTENINGS)
        return self._window.drop(excess) and self._leave_out(self._window)

    def _leave_out(self, window: Window) -> bool:
        left, toolbox = window.turns, self._opening.toolbox
        self._turns = [
            self._fragments.of(left[turn], toolbox) if turn in window.touched else whole
            for turn, whole in enumerate(self._whole)
        ]
        return True


class ToldInIds:
    """A conversation as the ids of its tokens, rendered here; the answer is kept as it was sampled."""

    def __init__(
        self, rendered: RenderedPrompt, renderer: Renderer, carrier: Carrier, context: int | None
    ) -> None:
        self._rendered = rendered
        self._renderer = renderer
        self._carrier = carrier
        self._context = context
        self._ids = renderer.encoding.join(part.data for part in rendered.told)
        self._unproven = bool(carrier.asks.get("return_token_ids"))
        self._mistaken = False

    def members(self) -> list[bytes]:
        """Return the ids, behind a message that stands for all of them."""
        return [_NOBODY, self._carrier.opens, self._ids, self._carrier.closes]

    @property
    def asks(self) -> Mapping[str, Any]:
        """The ids that are sampled."""
        return self._carrier.asks

    def limit(self, prompt: Prompt) -> int | None:
        """Return what was asked for, or what there is room for if that is less. Raises `ModelError`."""
        asked = prompt.settings.max_output_tokens
        if self._context is None:
            return asked or None
        room = self._context - self._rendered.tokens
        if room <= 0:
            raise _TOO_LONG
        return min(asked, room) if asked else None

    def read(self, events: Sequence[bytes]) -> Sequence[bytes]:
        """Return events without the prompt's ids, which the first repeats: they are compared, not parsed."""
        return [self._proven(event) for event in events] if self._unproven else events

    def answered(self, answer: Chunks) -> Renderings:
        """Return the turn in ids, its answer as it was sampled, if its ids are known."""
        if self._unproven or self._mistaken or not answer.sampled:
            return {}
        return self._renderer.answered(self._rendered, answer.sampled, thought=answer.thought)

    def shortened(self) -> bool:
        """What may be left out has been: the renderer knows how long it is."""
        return False

    def _proven(self, event: bytes) -> bytes:
        before, echo, rest = event.partition(_ECHO)
        if not echo or not rest.lstrip().startswith(b"["):
            return event
        ids, closes, after = rest.partition(b"]")
        self._unproven = False
        if ids.translate(None, b" [") != self._ids:
            self._mistaken = True
            log.error("a model server did not take a prompt's ids")
        return before + echo + b"[" + closes + after
