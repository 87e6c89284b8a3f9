"""The input of a custom tool, out of the JSON object that it is wrapped in, as it streams in."""

import json
import re

import jiter

_OPENS = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_LONGEST_HEAD = 256  # characters; what begins with more than that does not stream
_WHOLE = re.compile(
    r"(?:[^\"\\]+"
    r"|\\[^u]"
    r"|\\u(?![dD][89abAB])[0-9a-fA-F]{4}"
    r"|\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?=[^\\\"]|\\[^u]|.{6}))"
    r"|\\u(?=.{4})(?![0-9a-fA-F]{4}))*",
    re.DOTALL,
)
"""Whole characters of a JSON string, as many as there are, also where models do not escape them, and what
can become none whatever follows."""
_ESCAPE = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|\\u....|\\.", re.DOTALL)
_HALF = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")
_NO_CHARACTER = "\ufffd"


class WrappedInput:
    """Unwraps one input.

    What is not wrapped as it was asked for is held until it is whole. Then it is the input as it stands,
    unless there is an input in it after all.
    """

    def __init__(self) -> None:
        self._held = ""
        self._rest: list[str] = []  # behind what is held, where it does not stream
        self._streams = False

    def push(self, text: str) -> str:
        """Return what more of the input is certain."""
        if self._held[:1] == '"' and self._streams:
            return ""
        if not self._streams and len(self._held) > _LONGEST_HEAD:
            self._rest.append(text)
            return ""
        self._held += text
        if not self._streams and (found := _OPENS.match(self._held)):
            self._streams = True
            self._held = self._held[found.end() :]
        return self._certain() if self._streams else ""

    def end(self) -> str:
        """Return what was held back, if it is of the input."""
        if not self._streams:
            return _input("".join([self._held, *self._rest]))
        rest = ""
        while half := _HALF.match(self._held):
            self._held = self._held[half.end() :]
            rest += _NO_CHARACTER + self._certain()
        return rest

    def _certain(self) -> str:
        found = _WHOLE.match(self._held)
        assert found
        self._held = self._held[found.end() :]
        return _ESCAPE.sub(_unescaped, found[0]) if "\\" in found[0] else found[0]


def _unescaped(escape: re.Match[str]) -> str:
    """Return the character that is meant, or what was written if that is no escape."""
    try:
        character = str(json.loads(f'"{escape[0]}"'))
    except ValueError:
        return escape[0]
    return _NO_CHARACTER if "\ud800" <= character <= "\udfff" else character


def _input(arguments: str) -> str:
    try:
        parsed = jiter.from_json(arguments.encode())
    except ValueError:
        return arguments
    said = parsed.get("input") if isinstance(parsed, dict) else None
    return said if isinstance(said, str) else arguments
