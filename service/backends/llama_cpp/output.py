"""What a model wrote, told apart: text, and calls of tools.

Only what the model sampled comes here, so nothing that a user or a tool said can become a call.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

import jiter

from service.backends import (
    CallText,
    CustomCallBegins,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    Text,
)
from service.backends.tools import CallableTool
from service.errors import ModelError

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_BEGINNINGS = "|".join(_OPEN[:length] for length in range(len(_OPEN), 0, -1))
_MAYBE_CALL = re.compile(rf"\n\s*(?:{_BEGINNINGS})?\Z")
_MAYBE_CALL_AT_START = re.compile(rf"\A\s*(?:{_BEGINNINGS})?\Z|{_MAYBE_CALL.pattern}")
_CALL = re.compile(rf"\n\s*{_OPEN}")
_CALL_AT_START = re.compile(rf"\A\s*{_OPEN}|{_CALL.pattern}")


class Reader(Protocol):
    """Makes sense of sampled text."""

    def push(self, text: str) -> list[Produced]:
        """Read more; hold back only what cannot be told yet."""

    def end(self) -> list[Produced]:
        """Read what was held back: nothing follows."""


class TextReader:
    """Everything is text."""

    def push(self, text: str) -> list[Produced]:
        """Pass it on."""
        return [Text(text)] if text else []

    def end(self) -> list[Produced]:
        """Nothing was held back."""
        return []


class JsonReader:
    """Everything is one JSON value, as text."""

    def __init__(self) -> None:
        self._proof = _EnforcementProof('{["-0123456789tfn')

    def push(self, text: str) -> list[Produced]:
        """Pass it on. Raises `ModelError` if it cannot be JSON."""
        self._proof.check(text)
        return [Text(text)] if text else []

    def end(self) -> list[Produced]:
        """Nothing was held back."""
        return []


class ArgumentsReader:
    """Everything is the arguments of one function."""

    def __init__(self) -> None:
        self._proof = _EnforcementProof("{")

    def push(self, text: str) -> list[Produced]:
        """Pass it on. Raises `ModelError` if it cannot be a JSON object."""
        self._proof.check(text)
        return [CallText(text)] if text else []

    def end(self) -> list[Produced]:
        """Nothing was held back."""
        return [ItemEnds()]


class InputReader:
    """Everything is the input of one custom tool, inside JSON."""

    def __init__(self) -> None:
        self._read = ""

    def push(self, text: str) -> list[Produced]:
        """Hold it back: it is escaped, and rarely long."""
        self._read += text
        return []

    def end(self) -> list[Produced]:
        """Return the input, or as much of it as there is."""
        return [CallText(_input(self._read)), ItemEnds()]


class FreeReader:
    """Text, and calls that begin a line. What looks like a call and is none stays text."""

    def __init__(self, tools: Mapping[str, CallableTool]) -> None:
        self._tools = tools
        self._held = ""
        self._at_start = True
        self._in_call = False

    def push(self, text: str) -> list[Produced]:
        """Read more; hold back calls, and what may be the beginning of one."""
        self._held += text
        produced: list[Produced] = []
        while (step := self._call() if self._in_call else self._text()) is not None:
            produced += step
        return produced

    def end(self) -> list[Produced]:
        """Read what was held back; a call needs no closing mark at the very end."""
        held, self._held = self._held, ""
        if not self._in_call:
            blank = self._at_start and not held.strip()
            return [] if blank or not held else [Text(held)]
        return self._called(held) or [Text(_OPEN + held)]

    def _text(self) -> list[Produced] | None:
        """Read text up to the next call; None if more must be read before anything else."""
        if call := (_CALL_AT_START if self._at_start else _CALL).search(self._held):
            text, self._held = self._held[: call.start()], self._held[call.end() :]
            self._in_call = True
            return [Text(text)] if text else []
        maybe = (_MAYBE_CALL_AT_START if self._at_start else _MAYBE_CALL).search(self._held)
        sure = maybe.start() if maybe else len(self._held)
        if not sure:
            return None
        text, self._held = self._held[:sure], self._held[sure:]
        self._at_start = False
        return [Text(text)]

    def _call(self) -> list[Produced] | None:
        """Read a whole call; None if it is not whole yet."""
        body, closed, rest = self._held.partition(_CLOSE)
        if not closed:
            return None
        self._held, self._in_call, self._at_start = rest, False, True
        return self._called(body) or [Text(_OPEN + body + _CLOSE)]

    def _called(self, body: str) -> list[Produced]:
        """Return the call that this is, nothing if it is none."""
        call = _parsed(body)
        tool = self._tools.get(call.get("name", ""))
        if tool is None or not isinstance(call.get("arguments"), dict):
            return []
        arguments = json.dumps(call["arguments"], ensure_ascii=False)
        return [call_begins(tool), CallText(_call_text(tool, arguments)), ItemEnds()]


class _EnforcementProof:
    """Looks at how a text begins: llama.cpp ignores a schema that it cannot translate."""

    def __init__(self, first: str) -> None:
        self._first = first
        self._seen = False

    def check(self, text: str) -> None:
        """Raise `ModelError` if text that should match a schema does not begin like that."""
        if self._seen or not (begin := text.lstrip()):
            return
        self._seen = True
        if begin[0] not in self._first:
            raise ModelError("invalid_prompt", "The model server cannot enforce this schema.")


def call_begins(tool: CallableTool) -> FunctionCallBegins | CustomCallBegins:
    """Say that a tool is called."""
    begins = CustomCallBegins if tool.kind == "custom" else FunctionCallBegins
    return begins(tool.name)


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
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) and isinstance(parsed.get("name"), str) else {}
