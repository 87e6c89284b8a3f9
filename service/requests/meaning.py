"""Whether two items say the same to a model, whatever ids they have and whoever told them.

A client that replays a conversation may leave out ids and statuses, or write a text as a string where
it was a part: the model is told the same.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import orjson

from service.requests.messages import put_in_parts
from turnwire.v1 import items_pb2

Legible: TypeAlias = Callable[[Sequence[items_pb2.Item]], Sequence[items_pb2.Item]]
"""Makes items what a model can be told: opens what was sealed."""

_CHANCE = {
    "message": ("id", "status"),
    "function_call": ("id", "status"),
    "function_call_output": ("id", "status"),
    "custom_tool_call": ("id", "status"),
    "custom_tool_call_output": ("id",),
    "reasoning": ("id", "status"),
    "compaction": ("id",),
    "compaction_trigger": ("id",),
    "additional_tools": ("id",),
}
"""Members that no model is told."""


def same(told: items_pb2.Item, new: items_pb2.Item, legible: Legible) -> bool:
    """Tell whether a model is told the same; what was sealed is opened only where it must be."""
    if told == new or _meaning(told) == _meaning(new):
        return True
    opened = [list(map(_meaning, legible([item]))) for item in (told, new)]
    return opened[0] == opened[1]


def _meaning(item: items_pb2.Item) -> items_pb2.Item:
    """Return an item without what may differ from one telling to the next."""
    meaning = items_pb2.Item()
    meaning.CopyFrom(item)
    if kind := meaning.WhichOneof("kind"):
        for member in _CHANCE.get(kind, ()):
            getattr(meaning, kind).ClearField(member)
    match kind:
        case "message":
            _as_parts(meaning.message)
        case "function_call_output":
            _as_input_parts(meaning.function_call_output)
        case "custom_tool_call_output":
            _as_input_parts(meaning.custom_tool_call_output)
        case "reasoning" if meaning.reasoning.content:
            meaning.reasoning.ClearField("encrypted_content")
        case "other_json":
            meaning.other_json = _without_chance(meaning.other_json)
    return meaning


def _as_parts(message: items_pb2.Message) -> None:
    """Say text as a part, and leave out what else is known of the text."""
    put_in_parts(message)
    for part in message.content:
        if part.HasField("output_text"):
            part.output_text.ClearField("annotations_json")
            part.output_text.ClearField("logprobs")


def _as_input_parts(
    output: items_pb2.FunctionCallOutput | items_pb2.CustomToolCallOutput,
) -> None:
    if output.HasField("output_text"):
        text = items_pb2.Text(text=output.output_text)
        output.ClearField("output_text")
        output.output.append(items_pb2.ContentPart(input_text=text))


def _without_chance(other_json: str) -> str:
    """Say JSON without the same members; what cannot be said anew is left as it is."""
    try:
        members: Any = orjson.loads(other_json)
        if isinstance(members, dict):
            members = {name: members[name] for name in members if name not in ("id", "status")}
        return orjson.dumps(members, option=orjson.OPT_SORT_KEYS).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        return other_json
