"""Conversations that a template is tried with, to find out whether it tells turns one after the other."""

from collections.abc import Sequence
from typing import Any

from service.rendering import Message, Opening
from service.rendering.proving import Probe


def _call(call_id: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "look", "arguments": arguments}}


def _given(call_id: str, text: str) -> Message:
    return {"role": "tool", "tool_call_id": call_id, "name": "look", "content": text}


def _answer(text: str, *calls: dict[str, Any]) -> Message:
    said: dict[str, Any] = {"role": "assistant", "content": text}
    return {**said, "tool_calls": list(calls)} if calls else said


def _thought(message: Message) -> Message:
    return {**message, "reasoning_content": "So it is.\n"}


_USER: Message = {"role": "user", "content": "Naïve 한국어 🌲?\n"}
_SYSTEM: Message = {"role": "system", "content": "Be brief."}
_TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks.",
        "parameters": {
            "type": "object",
            "properties": {"at": {"type": "string"}, "depth": {"type": "integer"}},
            "required": ["at"],
        },
    },
}
_ONE = _answer("Looking.", _call("1", '{"at": "the \\"tree\\"", "depth": 2}'))
_TWO = _answer("", _call("2", '{"at": "a"}'), _call("3", "{}"))

_TALK: Sequence[Sequence[Message]] = (
    [_USER, _answer("Yes.")],
    [_USER, _answer("")],
    [_USER, _USER],
)
_LOOKS: Sequence[Sequence[Message]] = (
    [_USER, _ONE],
    [_given("1", "A tree."), _TWO],
    [_given("2", "A\n"), _given("3", ""), _answer("Both.\n")],
    [_USER],
)
_THOUGHTS: Sequence[Sequence[Message]] = (
    [_USER, _thought(_answer("Yes."))],
    [_USER, _thought(_ONE)],
    [_given("1", "A tree."), _thought(_TWO)],
    [_given("2", "A"), _given("3", "B")],
)

_PLAIN = Opening([], [], {})
_TOLD = Opening([_SYSTEM], [], {})
_EQUIPPED = Opening([], [_TOOL], {})
_BOTH = Opening([_SYSTEM], [_TOOL], {})

PROBES = (
    Probe("the beginning", _PLAIN, [[_USER]]),
    Probe("talk", _PLAIN, _TALK),
    Probe("talk after instructions", _TOLD, _TALK),
    Probe("talk with tools", _BOTH, _TALK),
    Probe("calls", _EQUIPPED, _LOOKS),
    Probe("calls after instructions", _BOTH, _LOOKS),
    Probe("calls of what is no tool any more", _PLAIN, _LOOKS),
    Probe("thoughts", _TOLD, _THOUGHTS),
    Probe("thoughts and tools", _BOTH, _THOUGHTS),
    Probe(
        "thoughts before the user",
        _EQUIPPED,
        [*_THOUGHTS[:-1], [*_THOUGHTS[-1], _thought(_answer("So."))], [_USER]],
    ),
    Probe(
        "several messages of the user",
        _PLAIN,
        [[_USER, _answer("A"), _USER, _thought(_answer("B"))], [_SYSTEM, _USER]],
    ),
    Probe("a system message first", _PLAIN, [[_SYSTEM, _USER, _answer("Yes.")], [_SYSTEM, _USER]]),
    Probe(
        "system messages and tools",
        _BOTH,
        [[_SYSTEM, _USER, _ONE], [_given("1", "A"), _answer("B")], [_USER, _SYSTEM]],
    ),
)
"""With tools and without, instructions and none, one call and more, thoughts before and after the user."""
