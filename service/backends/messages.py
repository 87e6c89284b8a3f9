"""Items as chat messages: what chat servers are sent, and what templates render."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import structlog

from service.backends.tools import Toolbox
from service.errors import ModelError
from turnwire.v1 import items_pb2

log = structlog.get_logger(__name__)

ChatMessage = dict[str, Any]
"""In the form of the chat completions API; arguments of calls are JSON text."""

_ROLES = {"assistant": "assistant", "system": "system", "developer": "system"}
_SILENT = {"additional_tools"}
"""Items without a message of their own: tools stand elsewhere in a request."""
_ILLEGIBLE = {"item_reference", "compaction", "compaction_trigger"}


def messages_of(items: Iterable[items_pb2.Item], toolbox: Toolbox) -> list[ChatMessage]:
    """Return items as messages. Calls and thoughts belong to the answer that they stand beside.

    Content is a string where it is text alone, otherwise a list of parts. Raises `ModelError` for
    what no model can be told.
    """
    return list(_Grouping(toolbox).messages(items))


class _Grouping:
    """Gathers what belongs to one answer."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox
        self._answer: ChatMessage = {}
        self._names: dict[str, str] = {}  # of tools, by the ids of their calls

    def messages(self, items: Iterable[items_pb2.Item]) -> Iterator[ChatMessage]:
        """Yield the messages of all items."""
        for item in items:
            match item.WhichOneof("kind"):
                case "reasoning":
                    yield from self._thought(item.reasoning)
                case "function_call":
                    self._call(item.function_call, item.function_call.arguments)
                case "custom_tool_call":
                    arguments = json.dumps(
                        {"input": item.custom_tool_call.input}, ensure_ascii=False
                    )
                    self._call(item.custom_tool_call, arguments)
                case "message" if _role(item.message.role) == "assistant":
                    yield from self._said(item.message)
                case kind:
                    yield from self._answered()
                    yield from self._told(item, kind)
        yield from self._answered()

    def _thought(self, reasoning: items_pb2.Reasoning) -> Iterator[ChatMessage]:
        """Take a thought, which comes before what it led to."""
        if not (text := _thoughts(reasoning)):
            return
        if self._answer.keys() - {"role", "reasoning_content"}:
            yield from self._answered()
        before = self._open().get("reasoning_content")
        self._answer["reasoning_content"] = f"{before}\n\n{text}" if before else text

    def _said(self, message: items_pb2.Message) -> Iterator[ChatMessage]:
        if self._answer.keys() - {"role", "reasoning_content"}:
            yield from self._answered()
        self._open()["content"] = content_of(message)

    def _call(
        self, call: items_pb2.FunctionCall | items_pb2.CustomToolCall, arguments: str
    ) -> None:
        name = self._toolbox.joined(call.namespace, call.name)
        self._names[call.call_id] = name
        function = {"name": name, "arguments": arguments}
        calls = self._open().setdefault("tool_calls", [])
        calls.append({"id": call.call_id, "type": "function", "function": function})

    def _open(self) -> ChatMessage:
        self._answer.setdefault("role", "assistant")
        return self._answer

    def _answered(self) -> Iterator[ChatMessage]:
        """Yield the answer so far, if there is any; thoughts alone are none."""
        answer, self._answer = self._answer, {}
        if answer.keys() - {"role", "reasoning_content"}:
            yield {"content": "", **answer}

    def _told(self, item: items_pb2.Item, kind: str | None) -> Iterator[ChatMessage]:
        match kind:
            case "message":
                yield {"role": _role(item.message.role), "content": content_of(item.message)}
            case "function_call_output":
                yield self._output(item.function_call_output)
            case "custom_tool_call_output":
                yield self._output(item.custom_tool_call_output)
            case None:
                pass
            case _ if kind in _ILLEGIBLE:
                raise ModelError(
                    "invalid_prompt", f"This model cannot read items of type '{kind}'."
                )
            case _ if kind not in _SILENT:
                log.warning("an item has no form for this model", item=kind)

    def _output(
        self, output: items_pb2.FunctionCallOutput | items_pb2.CustomToolCallOutput
    ) -> ChatMessage:
        text = output.output_text if output.HasField("output_text") else text_of(output.output)
        message = {"role": "tool", "tool_call_id": output.call_id, "content": text}
        name = self._names.get(output.call_id)
        return {**message, "name": name} if name else message


def content_of(message: items_pb2.Message) -> str | list[dict[str, Any]]:
    """Return what a message says: a string where that is text alone, otherwise parts."""
    if message.HasField("content_text"):
        return message.content_text
    if all(
        part.WhichOneof("kind") not in {"input_image", "input_file"} for part in message.content
    ):
        return text_of(message.content)
    return [_part(part) for part in message.content]


def text_of(parts: Iterable[items_pb2.ContentPart]) -> str:
    """Return the text of content. Raises `ModelError` if there is more in it than text."""
    return "".join(map(_text, parts))


def only_text(messages: Sequence[ChatMessage]) -> Sequence[ChatMessage]:
    """Return messages that are text alone. Raises `ModelError` if one of them is more than that."""
    if any(not isinstance(message["content"], str) for message in messages):
        raise ModelError("invalid_prompt", "This model reads text only, no images or files.")
    return messages


def _role(role: str) -> str:
    """Return the role that chat knows; one that nobody has defined yet has a user's authority."""
    return _ROLES.get(role, "user")


def _thoughts(reasoning: items_pb2.Reasoning) -> str:
    return "".join(part.reasoning_text.text for part in reasoning.content)


def _text(part: items_pb2.ContentPart) -> str:
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


def _part(part: items_pb2.ContentPart) -> dict[str, Any]:
    """Return a part as chat has it. Raises `ModelError` for what it has no form for."""
    match part.WhichOneof("kind"):
        case "input_image" if part.input_image.image_url:
            image = {"url": part.input_image.image_url}
            if part.input_image.detail:
                image["detail"] = part.input_image.detail
            return {"type": "image_url", "image_url": image}
        case "input_file" if part.input_file.file_data:
            file = part.input_file
            return {
                "type": "file",
                "file": {"filename": file.filename, "file_data": file.file_data},
            }
        case "input_image" | "input_file":
            raise ModelError(
                "invalid_prompt", "This model is shown files by content only, not by id."
            )
        case _:
            return {"type": "text", "text": _text(part)}
