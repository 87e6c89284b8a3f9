"""Directives: how a client or a test says what a simulated turn is to be.

    #sim <directive> [ ; <directive>]...

    text <n>                       say n words
    reasoning <n>                  think n words
    refuse <words>                 refuse with these words
    call <name> [<arguments>]      call a function; arguments go out as they are, broken ones too
    custom <name> [<input>]        call a custom tool
    stall <seconds>                send what there is, then nothing for a while
    length                         stop as if the limit on output were reached
    fail <code> [after <n> words]  fail as a model server, at once or after n words

Each of the first five is an item of its own.
"""

import itertools
import re
from collections.abc import Callable

from service.backends import (
    CallText,
    CustomCallBegins,
    FunctionCallBegins,
    ItemEnds,
    ReasoningText,
    RefusalText,
    Text,
)
from service.backends.simulator.acts import Act, Cut, Fail, Stall, speak
from service.errors import ModelError

_SEPARATOR = " ; "
_MOST_WORDS = 1_000_000  # a directive is a client's word: it must not ask for all memory
_MOST_SECONDS = 3600.0
_VOCABULARY = ("every", "turn", "carries", "only", "what", "is", "new", "and", "nothing", "else")


class Script:
    """Directives for turn after turn, without `#sim`. After the last it answers as usual."""

    def __init__(self, *turns: str) -> None:
        self._turns = iter(turns)

    def next(self) -> str | None:
        """Return the directives for the next turn, if there are any."""
        return next(self._turns, None)


def parse(directives: str) -> list[Act]:
    """Parse directives. Raises `ModelError`, which names the one that is not understood."""
    acts: list[Act] = []
    for directive in directives.split(_SEPARATOR):
        verb, _, rest = directive.strip().partition(" ")
        if verb in _ITEMS and acts:
            acts.append(ItemEnds())
        try:
            acts += _DIRECTIVES[verb](rest.strip())
        except (KeyError, ValueError) as error:
            message = f"The simulator does not understand the directive '{directive.strip()}'."
            raise ModelError("invalid_prompt", message) from error
    return acts


def _words(count: str) -> str:
    if not count.isdecimal() or int(count) > _MOST_WORDS:
        raise ValueError(count)
    return " ".join(itertools.islice(itertools.cycle(_VOCABULARY), int(count)))


def _call(rest: str) -> list[Act]:
    name, arguments = _named(rest)
    return [FunctionCallBegins(name), *speak(CallText, arguments or "{}")]


def _custom(rest: str) -> list[Act]:
    name, text = _named(rest)
    return [CustomCallBegins(name), *speak(CallText, text)]


def _named(rest: str) -> tuple[str, str]:
    name, _, text = rest.partition(" ")
    if not name:
        raise ValueError("a tool has a name")
    return name, text.strip()


def _stall(seconds: str) -> list[Act]:
    if not 0 <= float(seconds) <= _MOST_SECONDS:
        raise ValueError(seconds)
    return [Stall(float(seconds))]


def _cut(rest: str) -> list[Act]:
    if rest:
        raise ValueError(rest)
    return [Cut()]


def _fail(rest: str) -> list[Act]:
    told = re.fullmatch(r"(\S+)(?: +after +(\d+) +words?)?", rest)
    if told is None:
        raise ValueError(rest)
    return [*speak(Text, _words(told[2] or "0")), Fail(told[1])]


_ITEMS: dict[str, Callable[[str], list[Act]]] = {
    "text": lambda count: speak(Text, _words(count)),
    "reasoning": lambda count: speak(ReasoningText, _words(count)),
    "refuse": lambda words: speak(RefusalText, words),
    "call": _call,
    "custom": _custom,
}
_DIRECTIVES = {**_ITEMS, "stall": _stall, "length": _cut, "fail": _fail}
