"""The tools of a request: what a model knows them by, and which of them it may or must call.

A tool may belong to a namespace. A model knows no namespaces: it reads and writes one joined name,
which every model server accepts, and a `Toolbox` knows which tool that is.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from service.errors import ModelError
from turnwire.v1 import items_pb2, responses_pb2

_FREE_TEXT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}
_LONGEST_NAME = 64
_DIGEST_BYTES = 4
_NOT_IN_NAMES = re.compile(r"[^a-zA-Z0-9_-]")
_LONGEST_TYPE = 64  # of what a client may have repeated to it


@dataclass(frozen=True, slots=True)
class CallableTool:
    """A tool of the client's."""

    kind: Literal["function", "custom"]
    joined: str
    """The name by which the model knows it."""
    name: str
    namespace: str | None
    description: str
    """What it does, after what its namespace is for."""
    parameters: Mapping[str, Any]

    @property
    def signature(self) -> str:
        """What the model is told."""
        function = {
            "name": self.joined,
            "description": self.description,
            "parameters": self.parameters,
        }
        return json.dumps({"type": "function", "function": function}, ensure_ascii=False)


class Toolbox:
    """What may be called. Of tools with the same namespace and name the last one counts."""

    def __init__(self, tools: Iterable[items_pb2.Tool]) -> None:
        """Tools of other types (hosted ones, unknown ones) are not for these models: left out."""
        self._names: dict[tuple[str | None, str], str] = {}
        self.tools: dict[str, CallableTool] = {}
        """By joined name."""
        for tool in tools:
            if tool.HasField("namespace"):
                for member in tool.namespace.tools:
                    self._add(member, tool.namespace)
            else:
                self._add(tool, None)

    def joined(self, namespace: str, name: str) -> str:
        """Return the name by which the model knows a tool, also one that is here no more."""
        return self._names.get((namespace or None, name)) or joined_name(namespace, name)

    def named(self, namespace: str, name: str) -> dict[str, CallableTool]:
        """Return the tools that a name means, the closest meaning first. Raises `ModelError`."""
        own = {j: t for j, t in self.tools.items() if namespace in {"", t.namespace}}
        meanings = (
            {j: t for j, t in own.items() if (t.namespace or "", t.name) == (namespace, name)},
            {j: t for j, t in own.items() if j == name},
            {j: t for j, t in own.items() if t.name == name},
        )
        for meant in meanings:
            if meant:
                return meant
        raise ModelError("invalid_prompt", "tool_choice names a tool that is not among the tools.")

    def _add(self, tool: items_pb2.Tool, group: items_pb2.NamespaceTool | None) -> None:
        kind = tool.WhichOneof("kind")
        if kind not in {"function", "custom"}:
            return
        declared = tool.function if kind == "function" else tool.custom
        namespace = (group.name or None) if group else None
        joined = self._new_name(namespace, declared.name)
        described = [group.description if group else "", declared.description]
        self.tools[joined] = CallableTool(
            kind,
            joined,
            declared.name,
            namespace,
            "\n\n".join(filter(None, described)),
            _FREE_TEXT if kind == "custom" else schema_of(tool.function.parameters_json or "{}"),
        )

    def _new_name(self, namespace: str | None, name: str) -> str:
        known = self._names.get((namespace, name))
        if known is None:
            known = joined_name(namespace, name)
            if known in self.tools:
                known = _told_apart(known, namespace, name)
            self._names[namespace, name] = known
        return known


def joined_name(namespace: str | None, name: str) -> str:
    """Return namespace and name as one name that model servers accept. Depends on nothing else."""
    separator = "__" if namespace and not namespace.endswith("__") else ""
    whole = f"{namespace or ''}{separator}{name}"
    accepted = _NOT_IN_NAMES.sub("_", whole)
    if whole and accepted == whole and len(whole) <= _LONGEST_NAME:
        return whole
    return _told_apart(accepted, namespace, name)


def _told_apart(joined: str, namespace: str | None, name: str) -> str:
    """Mark a name that says too little with what tells it from others."""
    whole = f"{namespace or ''}\0{name}".encode()
    mark = hashlib.blake2b(whole, digest_size=_DIGEST_BYTES).hexdigest()
    return f"{joined[: _LONGEST_NAME - 1 - len(mark)]}_{mark}"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Which tools may be called, and whether one of them must be."""

    tools: Mapping[str, CallableTool]
    """By joined name."""
    forced: bool


def tool_choice(settings: responses_pb2.Settings, toolbox: Toolbox) -> ToolChoice:
    """Decide what a request's `tool_choice` means. Raises `ModelError` where it cannot be honoured."""
    choice = settings.tool_choice
    match choice.WhichOneof("kind"):
        case "function":
            named = choice.function
            return ToolChoice(toolbox.named(named.namespace, named.name), forced=True)
        case "custom":
            named = choice.custom
            return ToolChoice(toolbox.named(named.namespace, named.name), forced=True)
        case "allowed_tools":
            allowed = dict(_allowed(choice.allowed_tools.tools_json, toolbox))
            return _by_mode(allowed, choice.allowed_tools.mode)
        case "other_json":
            raise ModelError(
                "invalid_prompt",
                f"This model cannot honour tool_choice of type '{_type(choice.other_json)}'.",
            )
        case None:
            return _by_mode(toolbox.tools, settings.tool_choice_mode)


def one_call_only(settings: responses_pb2.Settings) -> bool:
    """Return whether a turn ends after its first call."""
    return settings.HasField("parallel_tool_calls") and not settings.parallel_tool_calls


def _allowed(tools_json: Iterable[str], toolbox: Toolbox) -> Iterator[tuple[str, CallableTool]]:
    """Yield the tools that a list allows. Types that are not for this model are left out."""
    for tool_json in tools_json:
        match _parsed(tool_json):
            case {"type": "namespace", "name": str(group)}:
                yield from ((j, t) for j, t in toolbox.tools.items() if t.namespace == group)
            case {"type": "function" | "custom", "name": str(name), "namespace": str(group)}:
                yield from toolbox.named(group, name).items()
            case {"type": "function" | "custom", "name": str(name)}:
                yield from toolbox.named("", name).items()


def _by_mode(tools: Mapping[str, CallableTool], mode: str) -> ToolChoice:
    if mode == "required" and not tools:
        raise ModelError(
            "invalid_prompt", "tool_choice demands a call, but no tool that this model can call."
        )
    return ToolChoice({} if mode == "none" else tools, forced=mode == "required")


def _type(choice_json: str) -> str:
    choice = _parsed(choice_json)
    return str(choice.get("type"))[:_LONGEST_TYPE] if isinstance(choice, dict) else "unknown"


def schema_of(text: str) -> dict[str, Any]:
    """Return a JSON Schema; an empty one stands for any object. Raises `ModelError` for what is none."""
    schema = _parsed(text)
    if not isinstance(schema, dict):
        raise ModelError("invalid_prompt", "A schema must be a JSON object.")
    return schema or {"type": "object"}


def _parsed(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ModelError("invalid_prompt", "A tool, a choice or a schema is no JSON.") from error
