"""Directives: how a client or a test says what a simulated turn is to be.

    #sim <directive> [ ; <directive>]...

    text <n>                       say n words
    summary <n>                    sum up in n words what is thought
    reasoning <n>                  think n words
    refuse <words>                 refuse with these words
    call <name> [<arguments>]      call a function; arguments go out as they are, broken ones too
    custom <name> [<input>]        call a custom tool
    tools                          say the names of the callable tools, as the model knows them
    history                        say how many items the model was told, this turn's included
    stall <seconds>                send what there is, then nothing for a while
    slow <seconds>                 take that long for every token from here on
    length                         stop as if the limit on output were reached
    fail <code> [after <n> words]  fail as a model server, at once or after n words

What says something is an item of its own: `text 3 ; text 3` is two messages. Only `reasoning` goes on
with the item of a `summary` right before it. A tool of a namespace is called as `<namespace>.<name>`.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from service.backends import (
    CallText,
    CustomCallBegins,
    FunctionCallBegins,
    ItemEnds,
    ReasoningSummaryText,
    ReasoningText,
    RefusalText,
    Text,
)
from service.backends.simulator.acts import Act, Cut, Fail, Slow, Stall, Tell, speak
from service.errors import ModelError

_SEPARATOR = " ; "
_MOST_WORDS = 1_000_000  # a directive is a client's word: it must not ask for all memory
_MOST_SECONDS = 3600.0
_ONE_ITEM = ("summary", "reasoning")
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
    item = ""
    for directive in directives.split(_SEPARATOR):
        verb, _, rest = directive.strip().partition(" ")
        if verb in _ITEMS:
            if item and (item, verb) != _ONE_ITEM:
                acts.append(ItemEnds())
            item = verb
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


def _call(rest: str) -> Sequence[Act]:
    name, namespace, arguments = _named(rest)
    return [FunctionCallBegins(name, namespace), *speak(CallText, arguments or "{}")]


def _custom(rest: str) -> Sequence[Act]:
    name, namespace, text = _named(rest)
    return [CustomCallBegins(name, namespace), *speak(CallText, text)]


def _named(rest: str) -> tuple[str, str | None, str]:
    whole, _, text = rest.partition(" ")
    namespace, _, name = whole.rpartition(".")
    if not name:
        raise ValueError("a tool has a name")
    return name, namespace or None, text.strip()


def _seconds(rest: str) -> float:
    seconds = float(rest)
    if not 0 <= seconds <= _MOST_SECONDS:
        raise ValueError(rest)
    return seconds


def _alone(act: Act, rest: str) -> Sequence[Act]:
    if rest:
        raise ValueError(rest)
    return [act]


def _fail(rest: str) -> Sequence[Act]:
    told = re.fullmatch(r"([a-z_]+)(?: +after +(\d+) +words?)?", rest)
    if told is None:
        raise ValueError(rest)
    return [*speak(Text, _words(told[2] or "0")), Fail(told[1])]


_Directive: TypeAlias = Callable[[str], Sequence[Act]]
_ITEMS: dict[str, _Directive] = {
    "text": lambda count: speak(Text, _words(count)),
    "summary": lambda count: speak(ReasoningSummaryText, _words(count)),
    "reasoning": lambda count: speak(ReasoningText, _words(count)),
    "refuse": lambda words: speak(RefusalText, words),
    "call": _call,
    "custom": _custom,
    "tools": lambda rest: _alone(Tell("tools"), rest),
    "history": lambda rest: _alone(Tell("history"), rest),
}
_DIRECTIVES: dict[str, _Directive] = {
    **_ITEMS,
    "stall": lambda rest: [Stall(_seconds(rest))],
    "slow": lambda rest: [Slow(_seconds(rest))],
    "length": lambda rest: _alone(Cut(), rest),
    "fail": _fail,
}
