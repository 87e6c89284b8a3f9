"""Conversations as messages, serialised once: what stands in requests is joined of bytes."""

from collections.abc import Iterable, Sequence

import orjson

from service.backends import Prompt
from service.backends.messages import ChatMessage, messages_of
from service.backends.tools import Toolbox
from service.conversation import Rendered
from turnwire.v1 import items_pb2

_BYTES_A_TOKEN = 4  # an estimate, for prompts that have to be shortened
_THOUGHTS = "reasoning_content"


class Fragments:
    """Serialises items for servers that read thoughts under one name, or not at all."""

    def __init__(self, thoughts: str | None) -> None:
        self.dialect = f"chat/{thoughts or 'without_thoughts'}"
        self._thoughts = thoughts

    def of(self, items: Iterable[items_pb2.Item], toolbox: Toolbox) -> Rendered:
        """Return items as messages with commas between them. Raises `ModelError`."""
        messages = [self._told(message) for message in messages_of(items, toolbox)]
        return fragment(messages)

    def turns(self, prompt: Prompt, toolbox: Toolbox) -> list[Rendered]:
        """Return a conversation turn by turn, new input last, and keep what is history."""
        for segment in prompt.history:
            if self.dialect not in segment.rendered:
                segment.rendered[self.dialect] = self.of(prompt.legible(segment.items), toolbox)
        history = [segment.rendered[self.dialect] for segment in prompt.history]
        return [*history, self.of(prompt.input, toolbox)]

    def _told(self, message: ChatMessage) -> ChatMessage:
        thought = message.get(_THOUGHTS)
        if thought is None or self._thoughts == _THOUGHTS:
            return message
        kept = {name: value for name, value in message.items() if name != _THOUGHTS}
        return {**kept, self._thoughts: thought} if self._thoughts else kept


def fragment(messages: Sequence[ChatMessage]) -> Rendered:
    """Return messages as they stand in requests."""
    data = b",".join(map(orjson.dumps, messages))
    asks = any(message["role"] == "user" for message in messages)
    return Rendered(data, len(data) // _BYTES_A_TOKEN, asks)
