"""What a model wrote, told apart: text, and calls of tools.

Only what the model sampled comes here, so nothing that a user or a tool said can become a call.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import jiter

from service.backends import (
    CallText,
    CustomCallBegins,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    ScoredText,
    Text,
)
from service.backends.llama_cpp.held import Held
from service.backends.tools import CallableTool
from service.errors import ModelError
from turnwire.v1 import items_pb2

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
Scores: TypeAlias = Sequence[items_pb2.Logprob]
"""How likely the tokens of a text were, where that is wanted. Their bytes are those of the text."""
_BEGINNINGS = [_OPEN[:length] for length in range(len(_OPEN) - 1, -1, -1)]


class Reader(Protocol):
    """Makes sense of sampled text."""

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Read more; hold back only what cannot be told yet."""

    def end(self) -> list[Produced]:
        """Read what was held back: the model has finished. Raises `ModelError`."""

    def cut(self) -> list[Produced]:
        """Read what was held back: the model was stopped, and may have been in the middle."""


class TextReader:
    """Everything is text."""

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Pass it on."""
        del scores
        return [Text(text)] if text else []

    def end(self) -> list[Produced]:
        """Nothing was held back."""
        return []

    cut = end


class ScoredTextReader(TextReader):
    """Everything is text, and how likely its tokens were."""

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Pass it on."""
        return [ScoredText(text, scores)] if text else []


class JsonReader:
    """Everything is one JSON value, as text."""

    def __init__(self, text: Reader) -> None:
        """`text` reads what was found to be JSON."""
        self._proof = _EnforcementProof('{["-0123456789tfn')
        self._text = text

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Pass it on. Raises `ModelError` if it cannot be JSON."""
        self._proof.check(text)
        return self._text.push(text, scores)

    def end(self) -> list[Produced]:
        """Nothing was held back. Raises `ModelError` if it was no JSON."""
        self._proof.finish()
        return []

    def cut(self) -> list[Produced]:
        """Nothing was held back."""
        return []


class ArgumentsReader:
    """Everything is the arguments of one function."""

    def __init__(self) -> None:
        self._proof = _EnforcementProof("{")

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Pass it on. Raises `ModelError` if it cannot be a JSON object."""
        del scores
        self._proof.check(text)
        return [CallText(text)] if text else []

    def end(self) -> list[Produced]:
        """End the call. Raises `ModelError` if its arguments are no JSON."""
        self._proof.finish()
        return [ItemEnds()]

    def cut(self) -> list[Produced]:
        """Leave the call unfinished."""
        return []


class InputReader:
    """Everything is the input of one custom tool, inside JSON."""

    def __init__(self) -> None:
        self._read = ""

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Hold it back: it is escaped, and rarely long."""
        del scores
        self._read += text
        return []

    def end(self) -> list[Produced]:
        """Return the input, or as much of it as there is."""
        return [*self.cut(), ItemEnds()]

    def cut(self) -> list[Produced]:
        """Return as much of the input as there is."""
        return [CallText(_input(self._read))]


class FreeReader:
    """Text, and calls that begin a line. What looks like a call and is none stays text."""

    def __init__(self, tools: Mapping[str, CallableTool], held: Held) -> None:
        """`tools` are by the names that the model writes; `held` is empty."""
        self._tools = tools
        self._held = held
        self._at_start = True
        self._body = 0  # where, in what is held, the body of a call begins; 0 outside calls

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Read more; hold back calls, and what may be the beginning of one."""
        self._held.add(text, scores)
        produced: list[Produced] = []
        while (step := self._call() if self._body else self._text()) is not None:
            produced += step
        return produced

    def end(self) -> list[Produced]:
        """Read what was held back; a call needs no closing mark at the very end."""
        held = self._held.text
        if self._body:
            return self._called(len(held), len(held))
        blank = self._at_start and not held.strip()
        return [] if blank else self._held.tell(len(held))

    cut = end

    def _text(self) -> list[Produced] | None:
        """Read text up to the next call; None if more must be read before anything else."""
        at = self._held.text.find(_OPEN)
        while at >= 0:
            if (start := self._line_before(at)) is not None:
                self._body = at + len(_OPEN) - start
                return self._held.tell(start)
            at = self._held.text.find(_OPEN, at + 1)
        sure = self._sure()
        if not sure:
            return None
        self._at_start = False
        return self._held.tell(sure)

    def _sure(self) -> int:
        """Return how much of what is held cannot be the beginning of a call."""
        held = self._held.text
        begun = next(len(word) for word in _BEGINNINGS if held.endswith(word))
        start = self._line_before(len(held) - begun)
        return len(held) if start is None else start

    def _line_before(self, at: int) -> int | None:
        """Return where the white space before a place begins a line; None if it does not."""
        before = self._held.text[:at]
        words = len(before.rstrip())
        newline = before.find("\n", words)
        if newline >= 0:
            return newline
        return 0 if self._at_start and not words else None

    def _call(self) -> list[Produced] | None:
        """Read a whole call; None if it is not whole yet."""
        closes = self._held.text.find(_CLOSE, self._body)
        if closes < 0:
            return None
        self._at_start = True
        return self._called(closes, closes + len(_CLOSE))

    def _called(self, closes: int, ends: int) -> list[Produced]:
        """Take off the call whose body closes there, and what ends there; as text, if it is no call."""
        call = _parsed(self._held.text[self._body : closes])
        self._body = 0
        tool = self._tools.get(call.get("name", ""))
        if tool is None or not isinstance(call.get("arguments"), dict):
            return self._held.tell(ends)
        self._held.drop(ends)
        arguments = json.dumps(call["arguments"], ensure_ascii=False)
        return [call_begins(tool), CallText(_call_text(tool, arguments)), ItemEnds()]


class _EnforcementProof:
    """Looks at text that should match a schema: llama.cpp ignores one that it cannot translate."""

    def __init__(self, first: str) -> None:
        self._first = first
        self._begun = False
        self._text: list[str] = []

    def check(self, text: str) -> None:
        """Raise `ModelError` if the text does not begin as it should."""
        self._text.append(text)
        if self._begun or not (begin := text.lstrip()):
            return
        self._begun = True
        if begin[0] not in self._first:
            raise _not_enforced()

    def finish(self) -> None:
        """Raise `ModelError` if the text is no JSON."""
        try:
            jiter.from_json("".join(self._text).encode(), allow_inf_nan=False)
        except ValueError:
            raise _not_enforced() from None


def _not_enforced() -> ModelError:
    return ModelError("invalid_prompt", "The model server cannot enforce this schema.")


def call_begins(tool: CallableTool) -> FunctionCallBegins | CustomCallBegins:
    """Say that a tool is called."""
    begins = CustomCallBegins if tool.kind == "custom" else FunctionCallBegins
    return begins(tool.name, tool.namespace)


def call_reader(tool: CallableTool) -> Reader:
    """Return what reads a tool's arguments."""
    return InputReader() if tool.kind == "custom" else ArgumentsReader()


def _call_text(tool: CallableTool, arguments: str) -> str:
    return _input(arguments) if tool.kind == "custom" else arguments


def _input(arguments: str) -> str:
    """Return the input that stands in a custom tool's arguments, which may be cut off."""
    try:
        parsed = jiter.from_json(arguments.encode(), partial_mode="trailing-strings")
    except ValueError:
        return ""
    return str(parsed.get("input", "")) if isinstance(parsed, dict) else ""


def _parsed(body: str) -> dict[str, Any]:
    try:
        parsed = jiter.from_json(body.encode(), allow_inf_nan=False)
    except ValueError:  # a lone surrogate is one, too: nobody could be sent it
        return {}
    return parsed if isinstance(parsed, dict) and isinstance(parsed.get("name"), str) else {}
