"""A prompt's conversation, turn by turn, as the messages that templates read."""

from collections.abc import Iterator, Sequence
from typing import Any

from service.backends import Prompt
from service.backends.messages import ChatMessage, messages_of, only_text
from service.backends.tools import Toolbox
from service.rendering import Message
from turnwire.v1 import items_pb2

_REACH = 16
"""Turns before its own in which an output's call is looked for: a client can name one that nobody made."""


class Turns:
    """The turns of a conversation; the last is the new input. Each is parsed when it is asked for."""

    def __init__(self, prompt: Prompt, toolbox: Toolbox) -> None:
        self._prompt = prompt
        self._toolbox = toolbox
        self._parsed: dict[int, Sequence[items_pb2.Item]] = {len(prompt.history): prompt.input}

    def __len__(self) -> int:
        return len(self._prompt.history) + 1

    def messages(self, turn: int) -> Sequence[Message]:
        """Return a turn's messages. Raises `ModelError` for what this model cannot be told."""
        return self.told(turn, self._items(turn))

    def told(self, turn: int, items: Sequence[items_pb2.Item]) -> Sequence[Message]:
        """Return some of a turn's items as messages. Raises `ModelError`."""
        messages = messages_of(items, self._toolbox)
        nameless = [m for m in messages if m["role"] == "tool" and "name" not in m]
        if nameless:
            self._name(nameless, turn)
        return only_text(messages)

    @property
    def sizes(self) -> Sequence[int]:
        """Bytes of the items of each turn."""
        return [sum(i.ByteSize() for i in self._items(turn)) for turn in range(len(self))]

    def all(self) -> list[Message]:
        """Return the messages of the whole conversation. Raises `ModelError`."""
        return [message for turn in range(len(self)) for message in self.messages(turn)]

    def _name(self, outputs: list[ChatMessage], turn: int) -> None:
        """Give outputs the names of the tools that were called, not many turns ago."""
        missing = {output["tool_call_id"]: output for output in outputs}
        for earlier in range(turn - 1, max(-1, turn - 1 - _REACH), -1):
            for call in _calls(self._items(earlier)):
                if output := missing.pop(call.call_id, None):
                    output["name"] = self._toolbox.joined(call.namespace, call.name)
            if not missing:
                return

    def _items(self, turn: int) -> Sequence[items_pb2.Item]:
        if turn not in self._parsed:
            self._parsed[turn] = self._prompt.legible(self._prompt.history[turn].items)
        return self._parsed[turn]


def _calls(items: Sequence[items_pb2.Item]) -> Iterator[Any]:
    for item in items:
        match item.WhichOneof("kind"):
            case "function_call":
                yield item.function_call
            case "custom_tool_call":
                yield item.custom_tool_call


def asks(messages: Sequence[Message]) -> bool:
    """Whether a user speaks."""
    return any(message["role"] == "user" for message in messages)


def before_answer(messages: Sequence[Message]) -> Sequence[Message]:
    """Return what was said before the answer; all of it where none follows."""
    answers = (n for n, message in enumerate(messages) if message["role"] == "assistant")
    return messages[: next(answers, len(messages))]


def thinks(messages: Sequence[Message]) -> bool:
    """Whether thoughts are told."""
    return any("reasoning_content" in message for message in messages)
