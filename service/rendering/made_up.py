"""Made-up messages, to see what a template does: their words are found again in what it renders."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from service.rendering import Message

NAME, KEY, VALUE, OTHER_KEY, OTHER_VALUE = "zorble", "mokey", "vantu", "pikkey", "wolune"
BEFORE, AFTER, SAID, THOUGHT = "zilmar", "quintev", "brandol", "hespira"
"""Words that stand in made-up messages, to be found again in what is rendered."""

TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "Does something.",
        "parameters": {
            "type": "object",
            "properties": {KEY: {"type": "string"}, OTHER_KEY: {"type": "string"}},
            "required": [KEY],
        },
    },
}


def user(content: str = "Hm?") -> Message:
    """Return a made-up message of a user."""
    return {"role": "user", "content": content}


def answer(content: str = "Hm.", thought: str = "") -> Message:
    """Return a made-up answer."""
    made: Message = {"role": "assistant", "content": content}
    return {**made, "reasoning_content": thought} if thought else made


def call(value: str, *outputs: Message) -> Message:
    """Return made-up calls that outputs answer, the last of them with a value for its argument."""
    named = [(m["tool_call_id"], m.get("name", NAME)) for m in outputs] or [("call_1", NAME)]
    values = [*["Hm"] * (len(named) - 1), value]
    calls = [
        _made_call(call_id, name, {KEY: said})
        for (call_id, name), said in zip(named, values, strict=True)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def calls(*arguments: Mapping[str, Any]) -> Message:
    """Return made-up calls of one tool with these arguments."""
    made = [_made_call(f"call_{n}", NAME, given) for n, given in enumerate(arguments)]
    return {"role": "assistant", "content": "", "tool_calls": made}


def output(content: str, call_id: str = "call_1", name: str = NAME) -> Message:
    """Return a made-up output of a tool."""
    return {"role": "tool", "content": content, "tool_call_id": call_id, "name": name}


def outputs(made: Message, word: str) -> Iterator[Message]:
    """Yield made-up outputs for an answer's calls; the word stands in the first."""
    for n, one in enumerate(made["tool_calls"]):
        yield output("Hm" if n else word, one["id"], one["function"]["name"])


def _made_call(call_id: str, name: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    function = {"name": name, "arguments": orjson.dumps(arguments).decode()}
    return {"id": call_id, "type": "function", "function": function}
