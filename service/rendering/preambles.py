"""What stands before the first turn: instructions and tools, which clients resend every turn.

They are recognised by their content and shared by all conversations of a tenant that have the same:
nobody can time whether another tenant said it.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from service.backends import Prompt
from service.backends.messages import ChatMessage, messages_of, only_text
from service.backends.tools import Toolbox
from service.conversation import Rendered
from service.errors import ModelError
from service.rendering import Opening
from turnwire.v1 import responses_pb2

_OVERHEAD = 2048  # bytes: what a preamble weighs in Python beyond its ids, texts and tools
_MOST_OPTIONS = 16 * 1024  # bytes of options for templates, which are kept for longer than a turn


@dataclass(frozen=True, slots=True)
class Preamble:
    """Instructions and tools."""

    toolbox: Toolbox
    opening: Opening
    ids: Rendered
    answer_opens: Rendered

    @property
    def weight(self) -> int:
        """Bytes of memory, roughly: tools are kept as text and as what was read of it."""
        told = orjson.dumps([self.opening.messages, self.opening.tools])
        return _OVERHEAD + 4 * len(told) + len(self.ids.data)


def key_of(prompt: Prompt) -> bytes:
    """Return what tells preambles apart, and tenants. Raises `ModelError`."""
    settings = prompt.settings
    told = responses_pb2.Settings(
        instructions=settings.instructions,
        instruction_items=settings.instruction_items,
        tools=prompt.tools,
        reasoning=settings.reasoning,
    )
    digest = hashlib.blake2b(told.SerializeToString(deterministic=True), digest_size=16)
    digest.update(_written(_options(prompt)))
    digest.update(b"\0" + prompt.tenant.encode())
    return digest.digest()


def opening_of(prompt: Prompt, toolbox: Toolbox) -> Opening:
    """Return what stands before a prompt's first turn. Raises `ModelError`."""
    messages: list[ChatMessage] = []
    if prompt.settings.instructions:
        messages.append({"role": "system", "content": prompt.settings.instructions})
    messages += messages_of(prompt.settings.instruction_items, toolbox)
    return Opening(only_text(messages), _tools(toolbox), _options(prompt))


def _tools(toolbox: Toolbox) -> list[dict[str, Any]]:
    try:
        tools = [orjson.loads(tool.signature) for tool in toolbox.tools.values()]
        orjson.dumps(tools)
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError("invalid_prompt", "A tool's schema is nested too deeply.") from error
    return tools


def _options(prompt: Prompt) -> dict[str, Any]:
    """Return what templates are told beside messages and tools."""
    options: dict[str, Any] = {}
    if effort := prompt.settings.reasoning.effort:
        options = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
    given = orjson.loads(prompt.extra_json or "{}").get("chat_template_kwargs") or {}
    if not isinstance(given, dict):
        raise ModelError("invalid_prompt", "'chat_template_kwargs' must be an object.")
    return {**options, **given}


def _written(options: Mapping[str, Any]) -> bytes:
    """Return options as JSON. Raises `ModelError` for more than templates have options for."""
    try:
        written = orjson.dumps(options, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise ModelError(
            "invalid_prompt", "'chat_template_kwargs' is nested too deeply."
        ) from error
    if len(written) > _MOST_OPTIONS:
        raise ModelError(
            "invalid_prompt", f"'chat_template_kwargs' is longer than {_MOST_OPTIONS} bytes."
        )
    return written
