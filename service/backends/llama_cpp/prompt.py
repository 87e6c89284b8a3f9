"""Prompts as token ids, each part of them rendered once.

What was rendered stays with its segment; instructions and tools, which clients resend every turn,
are recognised by their content.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from service.backends import Prompt
from service.backends.llama_cpp.chat_ml import ARGUMENTS_OPEN, CALL_CLOSES, CALL_OPENS, ChatMl
from service.backends.llama_cpp.server import LlamaServer, Piece
from service.backends.tools import CallableTool, callable_tools
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

    tools: Mapping[str, CallableTool]
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

    tools: Mapping[str, CallableTool]
    before: Sequence[Rendered]
    """The preamble, and all earlier turns."""
    new: Rendered
    """The input of this turn."""

    @property
    def tokens(self) -> int:
        """How long it is."""
        return sum(part.tokens for part in (*self.before, self.new))


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
        key = _preamble_key(prompt.settings)
        preamble = self._preambles.get(key)
        missing = [segment for segment in prompt.history if self.dialect not in segment.rendered]
        parts = [self._format.items(segment.items) for segment in missing]
        parts.append(self._format.items(prompt.input))
        if preamble is None:
            tools = {tool.name: tool for tool in callable_tools(prompt.settings.tools)}
            parts.append(self._preamble_pieces(prompt.settings, tools))
        fragments = iter(await self._server.render(parts))
        for segment in missing:
            segment.rendered[self.dialect] = next(fragments)
        new = next(fragments)
        preamble = preamble or self._preambles.put(key, Preamble(tools, next(fragments)))
        history = (segment.rendered[self.dialect] for segment in prompt.history)
        return RenderedPrompt(preamble.tools, [preamble.ids, *history], new)

    def _preamble_pieces(
        self, settings: responses_pb2.Settings, tools: Mapping[str, CallableTool]
    ) -> list[Piece]:
        signatures = [tool.signature for tool in tools.values()]
        header = self._format.header(settings.instructions, signatures)
        return header + self._format.items(settings.instruction_items)


def _preamble_key(settings: responses_pb2.Settings) -> bytes:
    told = responses_pb2.Settings(
        instructions=settings.instructions,
        instruction_items=settings.instruction_items,
        tools=settings.tools,
    )
    return hashlib.blake2b(told.SerializeToString(deterministic=True), digest_size=16).digest()
