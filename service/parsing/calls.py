"""One call of a tool, while a model writes it.

What looks like a call and is none must stay text, so everything is held back up to the point of no
return: the name of a known tool, in its place after the mark, and the beginning of its arguments.
From there on it is a call, its arguments are passed on as they come, and nothing takes it back: one
that the model breaks off by itself is an error.
"""

import enum
from collections.abc import Callable, Mapping
from typing import TypeAlias

from service.backends import CustomCallBegins, FunctionCallBegins, Produced
from service.backends.tools import CallableTool
from service.errors import ModelError
from service.parsing import Reader
from service.parsing.held import Held
from service.parsing.texts import ArgumentsReader, InputReader

Tools: TypeAlias = Mapping[str, CallableTool]
"""By the names that the model writes."""

_LONGEST_HEAD = 256  # characters between the mark and the arguments; what is longer is text


class Outcome(enum.Enum):
    """What became of something that looked like a call."""

    OPEN = "open"
    CALL = "call"
    """It is one, and whole up to its closing marks."""
    TEXT = "text"
    """It is none."""


def call_begins(tool: CallableTool) -> FunctionCallBegins | CustomCallBegins:
    """Say that a tool is called."""
    begins = CustomCallBegins if tool.kind == "custom" else FunctionCallBegins
    return begins(tool.name, tool.namespace)


def call_reader(tool: CallableTool) -> Reader:
    """Return what reads a tool's arguments, where nothing else is written."""
    return InputReader() if tool.kind == "custom" else ArgumentsReader()


def broken_off() -> ModelError:
    """Return the error of a call that its model did not finish."""
    return ModelError("server_error", "The model broke off in the middle of a call.")


class Call:
    """Something that looks like a call. What calls of all forms have in common."""

    def __init__(self, held: Held, mark_ends: int) -> None:
        """`held` begins with the mark, after white space."""
        self.outcome = Outcome.OPEN
        self.length = mark_ends
        """How much of what is held is not to be looked at again, where it is text."""
        self._held = held
        self._returns = True
        """Whether it can still turn out to be none."""
        self._state: Callable[[], list[Produced] | None] = self._head

    def read(self) -> list[Produced] | None:
        """Read on in what is held; None if more must be read before anything else."""
        return self._state()

    def end(self) -> list[Produced]:
        """The answer has ended. Raises `ModelError` if a call was broken off."""
        if self._returns:
            return self._refuted_whole()
        raise broken_off()

    def cut(self) -> list[Produced]:
        """The answer was cut off: leave a call as it is."""
        return self._refuted_whole() if self._returns else []

    def _head(self) -> list[Produced] | None:
        raise NotImplementedError

    def _window(self) -> str:
        """Return as much of what is held as may stand in front of arguments."""
        return self._held.text[: self.length + _LONGEST_HEAD]

    def _too_long(self) -> bool:
        return len(self._held.text) > self.length + _LONGEST_HEAD

    def _refuted(self) -> list[Produced]:
        self.outcome = Outcome.TEXT
        return []

    def _refuted_whole(self) -> list[Produced]:
        """Say that nothing of what is held is a call."""
        self._held.unpark()
        self.length = len(self._held.text)
        return self._refuted()

    def _closed(self) -> list[Produced]:
        self.outcome = Outcome.CALL
        return []
