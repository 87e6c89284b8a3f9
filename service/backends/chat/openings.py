"""Instructions and tools, which clients resend every turn: read and serialised once.

They are recognised by their content.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from service.backends import Prompt
from service.backends.chat.fragments import Fragments, fragment
from service.backends.recent import KEPT_BYTES, Recent
from service.backends.tools import CallableTool, Toolbox
from service.rendering.preambles import key_of
from turnwire.v1 import items_pb2

_OVERHEAD = 2048  # bytes: what an opening weighs in Python beyond its texts


@dataclass(frozen=True, slots=True)
class Opening:
    """Instructions and tools, as they stand in requests."""

    toolbox: Toolbox
    instructions: bytes
    """Messages with commas between them."""
    tools: Mapping[str, bytes]
    """By joined name."""

    @property
    def weight(self) -> int:
        """Bytes of memory, roughly: tools are kept as text and as what was read of it."""
        return _OVERHEAD + 4 * (len(self.instructions) + sum(map(len, self.tools.values())))


class Openings:
    """The openings met last, least recently used out first."""

    def __init__(self, fragments: Fragments, budget: int = KEPT_BYTES) -> None:
        self._fragments = fragments
        self._kept = Recent[Opening](budget)

    def of(self, prompt: Prompt) -> Opening:
        """Return a prompt's opening. Raises `ModelError` for what no model can be told."""
        key = key_of(prompt)
        return self._kept.get(key) or self._kept.put(key, self._made(prompt))

    def _made(self, prompt: Prompt) -> Opening:
        toolbox = Toolbox(prompt.tools)
        strict = dict(_strict(prompt.tools, toolbox))
        tools = {joined: _tool(tool, strict) for joined, tool in toolbox.tools.items()}
        return Opening(toolbox, self._instructions(prompt, toolbox), tools)

    def _instructions(self, prompt: Prompt, toolbox: Toolbox) -> bytes:
        settings, parts = prompt.settings, []
        if settings.instructions:
            parts.append(fragment([{"role": "system", "content": settings.instructions}]).data)
        if settings.instruction_items:
            parts.append(self._fragments.of(settings.instruction_items, toolbox).data)
        return b",".join(filter(None, parts))


def _tool(tool: CallableTool, strict: Mapping[str, bool]) -> bytes:
    """Return a tool as it stands in requests."""
    function: dict[str, Any] = {"name": tool.joined, "parameters": tool.parameters}
    if tool.description:
        function["description"] = tool.description
    if tool.joined in strict:
        function["strict"] = strict[tool.joined]
    return orjson.dumps({"type": "function", "function": function})


def _strict(tools: Iterable[items_pb2.Tool], toolbox: Toolbox) -> Iterator[tuple[str, bool]]:
    """Yield what was said of functions: whether arguments must match the schema exactly."""
    for tool in tools:
        group = tool.namespace.name if tool.HasField("namespace") else ""
        members = tool.namespace.tools if tool.HasField("namespace") else [tool]
        for member in members:
            if member.HasField("function") and member.function.HasField("strict"):
                yield toolbox.joined(group, member.function.name), member.function.strict
