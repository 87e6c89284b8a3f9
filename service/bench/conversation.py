"""The conversation of an agent at work: questions of a user, each with thoughts, calls and outputs."""

import json
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from service.backends.messages import messages_of
from service.backends.tools import Toolbox
from service.bench.texts import Author
from turnwire.v1 import items_pb2

CYCLE = 10
"""Turns from one message of the user to the next."""
INSTRUCTIONS = (
    "You are an engineer who works in a large repository. Look before you change anything, make "
    "small changes, run the tests after each, and say in a sentence what you did and why."
)
_SEED = 20261123
_THOUGHT, _SAID, _ASKED = 160, 240, 400  # characters of a thought, of an answer and of a question
_WRITTEN = 460  # characters of a turn that are not what tools gave, roughly
_LEAST_GIVEN = 40
_TOOLS = (
    ("read_file", "Read lines of a file of the repository."),
    ("list_directory", "List a directory, with sizes."),
    ("search", "Find lines that match a pattern, in all files or in some."),
    ("run_tests", "Run the tests that a pattern names, and return what failed."),
    ("run_command", "Run a command in a sandbox, and return what it printed."),
    ("write_file", "Replace a file, or create it."),
    ("apply_patch", "Apply a patch to several files at once."),
    ("show_history", "Show how lines of a file came to be."),
    ("look_up", "Look a name up in the documentation of what is installed."),
    ("ask_reviewer", "Have a change reviewed, and return what was found in it."),
)
_SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "description": "A path, from the top of the repository."},
        "query": {"type": "string", "description": "What to look for: a name, or a pattern."},
        "lines": {"type": "array", "items": {"type": "integer"}, "description": "First and last."},
        "options": {
            "type": "object",
            "properties": {"recursive": {"type": "boolean"}, "limit": {"type": "integer"}},
        },
    },
    "required": ["path"],
}


class Turn(NamedTuple):
    """A turn: what the model is asked, and how it answers."""

    asked: Sequence[items_pb2.Item]
    answer: Sequence[items_pb2.Item]

    @property
    def calls(self) -> str:
        """The id of the call that it ends with; empty if the user is to speak next."""
        return self.answer[-1].function_call.call_id


def tools() -> list[items_pb2.Tool]:
    """Return what the agent may call."""
    schema = json.dumps(_SCHEMA)
    return [
        items_pb2.Tool(
            function=items_pb2.FunctionTool(name=n, description=d, parameters_json=schema)
        )
        for n, d in _TOOLS
    ]


class Conversation:
    """A conversation of so many turns, about so many characters long: always the same one."""

    def __init__(self, turns: int, characters: int) -> None:
        self._given = max(_LEAST_GIVEN, characters // turns - _WRITTEN)
        self.turns: Sequence[Turn] = list(self._turns(turns))

    def place(self, number: int) -> Turn:
        """Return a turn that might stand in a place, counted from 1: in all places with the same words.

        So nothing but what comes before it differs from place to place.
        """
        author = Author(_SEED)
        before = self.turns[number - 2].calls if number > 1 else ""
        text = author.output(self._given)
        return Turn([_output(before, text) if before else _asked(text)], _calls(author, "call"))

    def texts(self) -> Iterator[str]:
        """Yield what is said and called, and what tools give; not the thoughts, which models forget."""
        for turn in self.turns:
            for message in messages_of([*turn.asked, *turn.answer], Toolbox([])):
                calls = message.get("tool_calls", ())
                yield from (message["content"], *(c["function"]["arguments"] for c in calls))

    def _turns(self, count: int) -> Iterator[Turn]:
        author, call_id = Author(_SEED), ""
        for turn in range(count):
            size = author.number(self._given // 4, 2 * self._given - self._given // 4)
            gives = _output(call_id, author.output(size))
            asked = gives if turn % CYCLE else _asked(author.prose(_ASKED))
            call_id = f"call_{turn}"
            ends = (turn + 1) % CYCLE == 0
            yield Turn([asked], _said(author) if ends else _calls(author, call_id))


def places(turns: int) -> list[int]:
    """Return the turns at which a conversation is looked at: the first, the last, and some between.

    The user speaks in none of them but the first.
    """
    spread = {max(1, turns * eighths // 8) for eighths in (1, 2, 4, 6, 8)}
    return sorted({1} | {number - speaks(number) for number in spread})


def speaks(number: int) -> bool:
    """Return whether the user speaks in a turn: then models forget what they thought before."""
    return number % CYCLE == 1 and number > 1


def _asked(text: str) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(role="user", content_text=text))


def _output(call_id: str, text: str) -> items_pb2.Item:
    given = items_pb2.FunctionCallOutput(call_id=call_id, output_text=text)
    return items_pb2.Item(function_call_output=given)


def _said(author: Author) -> list[items_pb2.Item]:
    text = items_pb2.OutputText(text=author.prose(_SAID))
    said = items_pb2.Message(role="assistant", content=[items_pb2.ContentPart(output_text=text)])
    return [_thought(author), items_pb2.Item(message=said)]


def _calls(author: Author, call_id: str) -> list[items_pb2.Item]:
    name, _ = _TOOLS[author.number(0, len(_TOOLS) - 1)]
    call = items_pb2.FunctionCall(call_id=call_id, name=name, arguments=author.arguments())
    return [_thought(author), items_pb2.Item(function_call=call)]


def _thought(author: Author) -> items_pb2.Item:
    text = items_pb2.Text(text=author.prose(_THOUGHT))
    part = items_pb2.ContentPart(reasoning_text=text)
    return items_pb2.Item(reasoning=items_pb2.Reasoning(content=[part]))
