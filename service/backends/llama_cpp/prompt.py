"""Prompts as token ids, each part of them rendered once.

What was rendered stays with its segment; instructions and tools, which clients resend every turn,
are recognised by their content.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.backends import Prompt
from service.backends.llama_cpp.chat_ml import ARGUMENTS_OPEN, CALL_CLOSES, CALL_OPENS, ChatMl
from service.backends.llama_cpp.completion import Piece
from service.backends.llama_cpp.server import LlamaServer
from service.backends.tools import Toolbox
from service.backends.window import Window, most_tokens
from service.conversation import Rendered
from turnwire.v1 import responses_pb2

_KEPT_BYTES = 16 * 1024 * 1024  # of instructions and tools


class FixedParts(NamedTuple):
    """What we write around everything that the model writes."""

    answer_opens: Rendered
    answer_closes: Rendered
    call_opens: Rendered
    arguments_open: Rendered
    call_closes: Rendered


@dataclass(frozen=True, slots=True)
class Preamble:
    """Instructions and tools."""

    toolbox: Toolbox
    ids: Rendered

    @property
    def weight(self) -> int:
        """Bytes of memory, roughly: the ids, and the tools that they render."""
        return 4 * len(self.ids.data)


class _Preambles:
    """What clients resend every turn, least recently used out first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, Preamble] = OrderedDict()
        self._bytes = 0

    def get(self, key: bytes) -> Preamble | None:
        """Return a preamble, and keep it longer for having been asked for."""
        if preamble := self._kept.get(key):
            self._kept.move_to_end(key)
        return preamble

    def put(self, key: bytes, preamble: Preamble) -> Preamble:
        """Keep a preamble within the budget, and return it."""
        if key not in self._kept:
            self._kept[key] = preamble
            self._bytes += preamble.weight
        while self._bytes > _KEPT_BYTES:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.weight
        return preamble


class RenderedPrompt(NamedTuple):
    """A prompt in token ids."""

    toolbox: Toolbox
    told: Sequence[Rendered]
    """All that the model is told: the preamble, then turn by turn, the input of this turn last."""
    new: Rendered
    """The input of this turn, however much of it the model is told."""

    @property
    def tokens(self) -> int:
        """How long it is."""
        return sum(part.tokens for part in self.told)


class Renderer:
    """Renders the prompts of one model."""

    def __init__(
        self, server: LlamaServer, chat_ml: ChatMl, fixed: FixedParts, dialect: str
    ) -> None:
        self.fixed = fixed
        self.dialect = dialect
        self._server = server
        self._format = chat_ml
        self._preambles = _Preambles()

    @classmethod
    async def of(cls, server: LlamaServer, model: str) -> "Renderer":
        """Return the renderer of a server's model. Raises `ModelError` if that is no ChatML model."""
        chat_ml = ChatMl(
            opens=await server.opening_tokens(),
            start=await server.special_token("<|im_start|>"),
            end=await server.special_token("<|im_end|>"),
        )
        parts: list[Sequence[Piece]] = [chat_ml.answer_opens, chat_ml.answer_closes]
        parts += [[CALL_OPENS], [ARGUMENTS_OPEN], [CALL_CLOSES]]
        identity = hashlib.sha256(f"{model}\n{chat_ml}".encode()).hexdigest()
        return cls(
            server, chat_ml, FixedParts(*await server.render(parts)), f"chat_ml/{identity[:16]}"
        )

    async def render(self, prompt: Prompt) -> RenderedPrompt:
        """Render what is new, and whatever else is missing, by one request. Raises `ModelError`."""
        key = _preamble_key(prompt)
        preamble = self._preambles.get(key)
        toolbox = preamble.toolbox if preamble else Toolbox(prompt.tools)
        missing = [segment for segment in prompt.history if self.dialect not in segment.rendered]
        parts = [self._format.items(prompt.legible(s.items), toolbox) for s in missing]
        parts.append(self._format.items(prompt.input, toolbox))
        if preamble is None:
            parts.append(self._preamble_pieces(prompt.settings, toolbox))
        fragments = iter(await self._server.render(parts))
        for segment in missing:
            segment.rendered[self.dialect] = next(fragments)
        new = next(fragments)
        preamble = preamble or self._preambles.put(key, Preamble(toolbox, next(fragments)))
        history = (segment.rendered[self.dialect] for segment in prompt.history)
        return RenderedPrompt(toolbox, [preamble.ids, *history, new], new)

    async def shorten(
        self, prompt: Prompt, rendered: RenderedPrompt, context: int
    ) -> RenderedPrompt:
        """Leave out the oldest of a conversation, so that there is room to answer in its context.

        What cannot be left out may still be too long. Raises `ModelError`.
        """
        most = most_tokens(prompt.settings, context - self.fixed.answer_opens.tokens)
        if rendered.tokens <= most:
            return rendered
        preamble, *turns = rendered.told
        window = Window(prompt, [turn.tokens for turn in turns], context)
        shortened = rendered
        while (excess := shortened.tokens - most) > 0 and window.drop(excess):
            told = [preamble, *await self._what_is_left(window, rendered)]
            shortened = rendered._replace(told=told)
        return shortened

    async def _what_is_left(self, window: Window, rendered: RenderedPrompt) -> list[Rendered]:
        """Return the turns of a window: whole ones as they were rendered, others rendered anew."""
        left, touched = window.turns, sorted(window.touched)
        parts = [self._format.items(left[turn], rendered.toolbox) for turn in touched]
        turns = rendered.told[1:]
        anew = dict(zip(touched, await self._server.render(parts), strict=True))
        return [anew.get(turn, whole) for turn, whole in enumerate(turns)]

    def _preamble_pieces(self, settings: responses_pb2.Settings, toolbox: Toolbox) -> list[Piece]:
        signatures = [tool.signature for tool in toolbox.tools.values()]
        header = self._format.header(settings.instructions, signatures)
        return header + self._format.items(settings.instruction_items, toolbox)


def _preamble_key(prompt: Prompt) -> bytes:
    told = responses_pb2.Settings(
        instructions=prompt.settings.instructions,
        instruction_items=prompt.settings.instruction_items,
        tools=prompt.tools,
    )
    return hashlib.blake2b(told.SerializeToString(deterministic=True), digest_size=16).digest()
