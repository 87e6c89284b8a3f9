"""Conversations that a template is tried with, to find out whether its turns add up.

With tools and without, instructions and none, one call and more, thoughts before and after the user.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from service.rendering import Message, Opening
from service.rendering.made_up import KEY, OTHER_KEY, TOOL, answer, call, calls, output, user
from service.rendering.manners import Known

Turns: TypeAlias = Sequence[Sequence[Message]]


class Probe(NamedTuple):
    """A conversation, and what is special about it."""

    what: str
    opening: Opening
    turns: Turns
    """The last one is new input."""


def probes(known: Collection[Known]) -> Iterator[Probe]:
    """Yield conversations about what a template can be told; the first is the plainest."""
    yield from _talks(_opening())
    yield Probe("instructions", _opening(_SYSTEM), _PLAIN)
    yield Probe("examples", _opening(_SYSTEM, user("1?"), answer("1.")), _PLAIN)
    yield from (Probe("an option", _opening(options=one), _PLAIN) for one in _OPTIONS)
    if "thoughts" in known:
        yield from (Probe("thoughts", _opening(options=one), _THOUGHTS) for one in ({}, *_OPTIONS))
    if {"calls", "outputs"} <= {*known}:
        tools = [TOOL] if "tools" in known else []
        for opening in (_opening(), _opening(tools=tools), _opening(_SYSTEM, tools=tools)):
            yield from _agents(opening)
            yield from _thoughtful_agents(opening)
            yield Probe("talk of an agent", opening, _TALK)


def _opening(
    *messages: Message,
    tools: Sequence[Mapping[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
) -> Opening:
    return Opening(messages, tools, options or {})


_SYSTEM: Message = {"role": "system", "content": "Be kind."}
_PLAIN: Turns = ([user("Hi"), answer("Hello")], [user("And now?")])
_TALK: Turns = (*_PLAIN[:1], [user("Go on"), answer("I do")], *_PLAIN)
_OPTIONS: Sequence[Mapping[str, Any]] = ({"enable_thinking": False}, {"enable_thinking": True})
_THOUGHTS: Turns = (
    [user("Why?"), answer("So.", "Let me see.\n")],
    [user("Really?"), answer("Yes.", "Hm,\n\nyes."), user("Yes?"), answer("No.", "No!")],
    [user("No?")],
)


def _talks(opening: Opening) -> Iterator[Probe]:
    yield Probe("the beginning", opening, ([user()],))
    yield Probe("talk", opening, _TALK)
    several = ([user("a"), user("b"), answer("c")], [user(), user()])
    yield Probe("several messages", opening, several)
    yield Probe("silence", opening, ([user(""), answer("")], [user("")]))
    told = [user("\u00fc\u4f60\U0001f980"), answer("\u00e9\n\n ")]
    yield Probe("unicode", opening, (told, [user(" \n\u00df ")]))
    late = ([_SYSTEM, user(), answer()], [_SYSTEM, user(), answer()], [user(), _SYSTEM])
    yield Probe("a late system message", opening, late)
    yield Probe("a resent conversation", opening, ([user(), answer(), user(), answer()], [user()]))


def _agents(opening: Opening) -> Iterator[Probe]:
    one, done = call('a "b"'), [output("b\n"), answer("c\n")]
    yield Probe("calls", opening, ([user(), one], done, [user()]))
    yield Probe("an output", opening, ([user(), one], [output("b")]))
    yield Probe("calls in one turn", opening, ([user(), one, *done], [user()]))
    two = calls({KEY: "1"}, {KEY: "2", OTHER_KEY: 3})
    both = [output("4", "call_0"), output("5", "call_1")]
    several = ([user(), two], [*both, two], [*both, answer()], [user()])
    yield Probe("several calls", opening, several)
    aloud = {**one, "content": "Let me see."}
    yield Probe("calls with text", opening, ([user(), aloud], [output("b"), aloud], done, [user()]))
    more = ([user(), one], [output("b"), user(), one], done, [user()])
    yield Probe("an output and more", opening, more)
    empty = calls({})
    silent = [output("", "call_0"), answer("")]
    yield Probe("empty calls", opening, ([user(), empty], silent, [user()]))
    late = ([_SYSTEM, user(), one], done, [user(), _SYSTEM])
    yield Probe("late system messages and calls", opening, late)


def _thoughtful_agents(opening: Opening) -> Iterator[Probe]:
    pensive = {**call("a"), "reasoning_content": "Hm, a tool."}
    begun = ([user(), pensive], [output("b"), pensive])
    thought = [output("b"), answer("c", "Done.")]
    yield Probe("thoughts before calls", opening, (*begun, thought, [user()]))
    yield Probe("open thoughts", opening, (*begun, [output("c")]))
