"""Conversations as ChatML with Hermes tool calls, in pieces.

A special token is a piece by its id and nothing else is: whatever text says, it stays text. A role,
a content and each part of a call are pieces of their own, so that a turn that is rendered from its
items has the ids that were sampled for it, wherever the model wrote canonically. A turn's ids then
never depend on the turn before.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import structlog

from service.backends.llama_cpp.completion import Piece
from service.backends.tools import Toolbox
from service.errors import ModelError
from turnwire.v1 import items_pb2

log = structlog.get_logger(__name__)

CALL_OPENS = '<tool_call>\n{"name": '
ARGUMENTS_OPEN = ', "arguments": '
CALL_CLOSES = "}\n</tool_call>"

_ROLES = {"assistant": "assistant", "system": "system", "developer": "system"}

_TOOLS = """\
You can call functions. Each line between <tools> and </tools> describes one:
<tools>
{tools}
</tools>
To call a function, answer with its name and its arguments as JSON, in this form:
<tool_call>
{{"name": <name>, "arguments": <arguments>}}
</tool_call>"""


@dataclass(frozen=True, slots=True)
class ChatMl:
    """The format, with the ids of one model."""

    opens: Sequence[Piece]
    """What stands in front of every prompt."""
    start: int
    """The id of `<|im_start|>`."""
    end: int
    """The id of `<|im_end|>`."""

    @property
    def answer_opens(self) -> list[Piece]:
        """What makes the model answer."""
        return [self.start, "assistant\n"]

    @property
    def answer_closes(self) -> list[Piece]:
        """What ends an answer."""
        return [self.end, "\n"]

    def header(self, instructions: str, tools: Sequence[str]) -> list[Piece]:
        """Render what comes before the conversation; `tools` are JSON objects."""
        told = [instructions] if instructions else []
        if tools:
            told.append(_TOOLS.format(tools="\n".join(tools)))
        return [*self.opens, *(self._message("system", ["\n\n".join(told)]) if told else [])]

    def items(self, items: Iterable[items_pb2.Item], toolbox: Toolbox) -> list[Piece]:
        """Render items. Raises `ModelError` for what this model cannot be told."""
        pieces: list[Piece] = []
        for role, content in _messages(items, toolbox):
            pieces += self._message(role, content)
        return pieces

    def _message(self, role: str, content: Sequence[str]) -> list[Piece]:
        return [self.start, f"{role}\n", *content, self.end, "\n"]


def call(name: str, arguments: str) -> list[str]:
    """Render a call in the pieces in which it is sampled."""
    return [CALL_OPENS, json.dumps(name), ARGUMENTS_OPEN, arguments, CALL_CLOSES]


def message_text(message: items_pb2.Message) -> str:
    """Return what a message says. Raises `ModelError` if that is more than text."""
    return message.content_text if message.HasField("content_text") else _text(message.content)


def _messages(items: Iterable[items_pb2.Item], toolbox: Toolbox) -> Iterator[tuple[str, list[str]]]:
    """Group items into messages: calls belong to the answer they follow."""
    answer: list[str] = []
    for item in items:
        if calls := _call(item, toolbox):
            answer += ["\n", *calls] if answer else calls
            continue
        if answer:
            yield "assistant", answer
            answer = []
        for role, text in _said(item):
            if role == "assistant":
                answer = [text]
            else:
                yield role, [text]
    if answer:
        yield "assistant", answer


def _call(item: items_pb2.Item, toolbox: Toolbox) -> list[str]:
    match item.WhichOneof("kind"):
        case "function_call":
            called = item.function_call
            return call(toolbox.joined(called.namespace, called.name), called.arguments)
        case "custom_tool_call":
            custom = item.custom_tool_call
            arguments = json.dumps({"input": custom.input})
            return call(toolbox.joined(custom.namespace, custom.name), arguments)
        case _:
            return []


def _said(item: items_pb2.Item) -> Iterator[tuple[str, str]]:
    """Return who said what, nothing if the item has no form for this model."""
    match item.WhichOneof("kind"):
        case "message":
            yield _role(item.message.role), message_text(item.message)
        case "function_call_output":
            yield "tool", _tool_response(item.function_call_output)
        case "custom_tool_call_output":
            yield "tool", _tool_response(item.custom_tool_call_output)
        case "item_reference" | "compaction" | "compaction_trigger" as kind:  # not legible
            raise ModelError("invalid_prompt", f"This model cannot read items of type '{kind}'.")
        case "reasoning" | "additional_tools":
            pass  # the format has no place for earlier thoughts, and tools stand in the header
        case kind:
            log.warning("an item has no form for this model", item=kind)


def _role(role: str) -> str:
    """Return the format's role; one that nobody has defined yet has a user's authority."""
    return _ROLES.get(role, "user")


def _tool_response(
    output: items_pb2.FunctionCallOutput | items_pb2.CustomToolCallOutput,
) -> str:
    text = output.output_text if output.HasField("output_text") else _text(output.output)
    return f"<tool_response>\n{text}\n</tool_response>"


def _text(parts: Iterable[items_pb2.ContentPart]) -> str:
    return "".join(map(_part_text, parts))


def _part_text(part: items_pb2.ContentPart) -> str:
    match part.WhichOneof("kind"):
        case "input_text":
            return part.input_text.text
        case "output_text":
            return part.output_text.text
        case "refusal":
            return part.refusal.refusal
        case "reasoning_text" | "summary_text" | "other_json" | None:
            return ""
        case kind:
            raise ModelError("invalid_prompt", f"This model reads text only, not '{kind}'.")
