"""ChatML with Hermes tool calls: for models that read it and whose own template knows no tools.

A role, a content and each part of a call are pieces of their own, so that a turn that is rendered from
its items has the ids that were sampled for it, wherever the model wrote canonically.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from service.parsing.syntax import JsonCalls, Syntax
from service.rendering import Cycle, Message, Opening, Piece

_CALLS = JsonCalls(
    before_name='<tool_call>\n{"name": "',
    before_arguments='", "arguments": ',
    after_arguments="}\n</tool_call>",
)
SYNTAX = Syntax(calls=_CALLS)

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
    ends: frozenset[int]
    """The tokens that end an answer."""
    additive = True
    kept_ends: ClassVar[frozenset[int]] = frozenset()

    @property
    def identity(self) -> str:
        """The ids, and the words around tools."""
        return f"chat_ml {list(self.opens)} {self.start} {self.end} {_TOOLS}"

    @property
    def answer_closes(self) -> Sequence[Piece]:
        """The end of a message, and the line after it."""
        return [self.end, "\n"]

    def answer_opens(self, opening: Opening) -> Sequence[Piece]:
        """Return the beginning of a message of the model's."""
        del opening
        return [self.start, "assistant\n"]

    def preamble(self, opening: Opening) -> Sequence[Piece]:
        """Render instructions and tools as the first system message."""
        instructions, *examples = opening.messages or [{"role": "system", "content": ""}]
        if instructions["role"] != "system":
            instructions, examples = {"role": "system", "content": ""}, list(opening.messages)
        told = [instructions["content"]] if instructions["content"] else []
        if opening.tools:
            lines = (json.dumps(tool, ensure_ascii=False) for tool in opening.tools)
            told.append(_TOOLS.format(tools="\n".join(lines)))
        header = self._message("system", ["\n\n".join(told)]) if told else []
        return [*self.opens, *header, *self.turn(examples, Cycle.CLOSED)]

    def turn(self, messages: Sequence[Message], cycle: Cycle) -> Sequence[Piece]:
        """Render messages; the format has no place for earlier thoughts, in either cycle."""
        del cycle
        return [
            piece
            for message in messages
            for piece in self._message(message["role"], _content(message))
        ]

    def whole(self, opening: Opening, messages: Sequence[Message]) -> Sequence[Piece]:
        """Render a whole conversation."""
        told = self.turn(messages, Cycle.OPEN)
        return [*self.preamble(opening), *told, *self.answer_opens(opening)]

    def _message(self, role: str, content: Sequence[str]) -> list[Piece]:
        return [self.start, f"{role}\n", *content, self.end, "\n"]


def call(name: str, arguments: str) -> list[str]:
    """Render a call in the pieces in which it is sampled."""
    form = _CALLS
    return [form.before_name, name, form.before_arguments, arguments, form.after_arguments]


def _content(message: Message) -> Sequence[str]:
    if message["role"] == "tool":
        return [f"<tool_response>\n{message['content']}\n</tool_response>"]
    if message["role"] == "assistant":
        return list(_answer(message))
    return [message["content"]]


def _answer(message: Message) -> Iterator[str]:
    if message["content"] or "tool_calls" not in message:
        yield message["content"]
    for number, called in enumerate(message.get("tool_calls", ())):
        if number or message["content"]:
            yield "\n"
        yield from call(called["function"]["name"], called["function"]["arguments"])
