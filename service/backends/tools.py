"""The tools of a request, and which of them the model may or must call."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from service.errors import ModelError
from turnwire.v1 import items_pb2, responses_pb2

_COMPACT = {
    "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
}
"""Asks llguidance, where llama.cpp was built with it, for JSON without idle white space."""

_FREE_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool of the client's."""

    kind: Literal["function", "custom"]
    name: str
    description: str
    parameters: Mapping[str, Any]

    @property
    def signature(self) -> str:
        """What the model is told."""
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
        }
        return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools may be called, and whether one of them must be."""

    tools: Mapping[str, CallableTool]
    forced: bool


def callable_tools(tools: Iterable[items_pb2.Tool], namespace: str = "") -> Iterator[CallableTool]:
    """Return the client's tools. Others (hosted ones, unknown ones) are not for this model."""
    for tool in tools:
        match tool.WhichOneof("kind"):
            case "function":
                parameters = _schema(tool.function.parameters_json or "{}")
                yield CallableTool(
                    "function",
                    namespace + tool.function.name,
                    tool.function.description,
                    parameters,
                )
            case "custom":
                yield CallableTool(
                    "custom", namespace + tool.custom.name, tool.custom.description, _FREE_TEXT
                )
            case "namespace":
                yield from callable_tools(tool.namespace.tools, f"{tool.namespace.name}.")
            case _:
                pass


def tool_choice(settings: responses_pb2.Settings, tools: Mapping[str, CallableTool]) -> ToolChoice:
    """Decide what a request's `tool_choice` means. Raises `ModelError` where it cannot be honoured."""
    match settings.tool_choice.WhichOneof("kind"):
        case "function":
            return ToolChoice(_named(tools, [settings.tool_choice.function.name]), forced=True)
        case "custom":
            return ToolChoice(_named(tools, [settings.tool_choice.custom.name]), forced=True)
        case "allowed_tools":
            allowed = settings.tool_choice.allowed_tools
            return ToolChoice(
                _named(tools, _allowed(allowed.tools_json)), forced=allowed.mode == "required"
            )
        case "other_json":
            raise ModelError("invalid_prompt", "This model cannot honour this type of tool_choice.")
        case None:
            return _by_mode(tools, settings.tool_choice_mode)


def _allowed(tools_json: Iterable[str]) -> list[str]:
    """Return the names of allowed tools. What has none (a hosted tool) is not for this model."""
    tools = (orjson.loads(tool) for tool in tools_json)
    names = (tool.get("name") for tool in tools if isinstance(tool, dict))
    return [name for name in names if isinstance(name, str)]


def constraint(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that make a completion match a schema."""
    return {"json_schema": {**schema, **_COMPACT}}


def name_constraint(names: Iterable[str]) -> dict[str, Any]:
    """Return the options that make a completion one of these names, as JSON."""
    literals = (json.dumps(json.dumps(name)) for name in names)
    return {"grammar": f"root ::= {' | '.join(literals)}"}


def text_constraint(settings: responses_pb2.Settings) -> dict[str, Any]:
    """Return the options that give a text its format. Raises `ModelError` for unknown formats."""
    text_format = settings.text.format
    match text_format.WhichOneof("kind"):
        case "json_schema":
            return constraint(_schema(text_format.json_schema.schema_json))
        case "json_object":
            return constraint({"type": "object"})
        case "other_json":
            raise ModelError("invalid_prompt", "This model cannot honour this type of text.format.")
        case _:
            return {}


def _by_mode(tools: Mapping[str, CallableTool], mode: str) -> ToolChoice:
    if mode == "required" and not tools:
        raise ModelError(
            "invalid_prompt", "tool_choice is 'required', but there are no tools to call."
        )
    return ToolChoice({} if mode == "none" else tools, forced=mode == "required")


def _named(tools: Mapping[str, CallableTool], names: Sequence[str]) -> dict[str, CallableTool]:
    if not names or any(name not in tools for name in names):
        raise ModelError("invalid_prompt", "tool_choice names a tool that is not among the tools.")
    return {name: tools[name] for name in names}


def _schema(text: str) -> dict[str, Any]:
    schema = orjson.loads(text)
    if not isinstance(schema, dict):
        raise ModelError("invalid_prompt", "A schema must be a JSON object.")
    return schema or {"type": "object"}
