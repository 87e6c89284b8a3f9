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
from service.backends.chat_ml import ARGUMENTS_OPEN, CALL_CLOSES, CALL_OPENS, ChatMl
from service.backends.llama_server import LlamaServer, Piece
from service.backends.llama_tools import CallableTool, callable_tools
from service.conversation import Rendered
from turnwire.v1 import responses_pb2

_PREAMBLES = 256  # instructions and tools that are kept


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
        self._preambles: OrderedDict[bytes, Preamble] = OrderedDict()

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
        preamble = preamble or Preamble(tools, next(fragments))
        self._keep(key, preamble)
        history = (segment.rendered[self.dialect] for segment in prompt.history)
        return RenderedPrompt(preamble.tools, [preamble.ids, *history], new)

    def _preamble_pieces(
        self, settings: responses_pb2.Settings, tools: Mapping[str, CallableTool]
    ) -> list[Piece]:
        signatures = [tool.signature for tool in tools.values()]
        header = self._format.header(settings.instructions, signatures)
        return header + self._format.items(settings.instruction_items)

    def _keep(self, key: bytes, preamble: Preamble) -> None:
        self._preambles[key] = preamble
        self._preambles.move_to_end(key)
        if len(self._preambles) > _PREAMBLES:
            self._preambles.popitem(last=False)


def _preamble_key(settings: responses_pb2.Settings) -> bytes:
    told = responses_pb2.Settings(
        instructions=settings.instructions,
        instruction_items=settings.instruction_items,
        tools=settings.tools,
    )
    return hashlib.blake2b(told.SerializeToString(deterministic=True), digest_size=16).digest()
