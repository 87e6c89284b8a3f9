"""Calls and their outputs: which items are either, and which of them belong together.

Items of types that the contract does not know are read as the protocol names them: `…_call` is a call,
`…_call_output` its output, and both carry its `call_id`.
"""

from typing import NamedTuple

import orjson

from turnwire.v1 import items_pb2

_CALLS = {"function_call", "custom_tool_call"}
_OUTPUTS = {"function_call_output", "custom_tool_call_output"}


class Tie(NamedTuple):
    """What ties a call and its output to each other."""

    call_id: str
    answers: bool
    """Whether the item is the output, rather than the call."""


class _Unknown(NamedTuple):
    """What is read of an item of a type that the contract does not know."""

    type: str
    call_id: str


_NOTHING = _Unknown("", "")


def tie(item: items_pb2.Item) -> Tie | None:
    """Return what ties an item to others, if anything does."""
    kind = item.WhichOneof("kind")
    if kind in _CALLS or kind in _OUTPUTS:
        return Tie(getattr(item, kind).call_id, kind in _OUTPUTS)
    if kind == "other_json" and "call_id" in item.other_json:
        return _usual_tie(_read(item.other_json))
    return None


def is_declared(item: items_pb2.Item) -> bool:
    """Whether the contract knows the item's type, so that what it says of a call can be held to."""
    return not item.HasField("other_json")


def is_models(item: items_pb2.Item) -> bool:
    """Whether the item is one that models make, rather than clients."""
    match item.WhichOneof("kind"):
        case "message":
            return item.message.role == "assistant"
        case "other_json":  # a hosted tool's call has no call_id: nobody has to answer it
            return _read(item.other_json).type.endswith("_call")
        case kind:
            return kind == "reasoning" or kind in _CALLS


def _usual_tie(unknown: _Unknown) -> Tie | None:
    if not unknown.call_id or not unknown.type.endswith(("_call", "_output")):
        return None
    return Tie(unknown.call_id, unknown.type.endswith("_output"))


def _read(other_json: str) -> _Unknown:
    try:
        members = orjson.loads(other_json)
    except orjson.JSONDecodeError:
        return _NOTHING
    match members:
        case {"type": str(kind), "call_id": str(call_id)}:
            return _Unknown(kind, call_id)
        case {"type": str(kind)}:
            return _Unknown(kind, "")
    return _NOTHING
