"""Conversations of many kinds, on which a template has to prove that its turns add up."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from service.errors import ModelError
from service.rendering import Cycle, Message, Opening, Template
from service.rendering.made_up import KEY, NAME, OTHER_KEY, TOOL, answer, call, calls, output, user
from service.rendering.manners import Manners

_SYSTEM: Message = {"role": "system", "content": "Be kind."}
_PLAIN = ([user("Hi"), answer("Hello")], [user("And now?")])


class Probe(NamedTuple):
    """A conversation, and what is special about it."""

    what: str
    opening: Opening
    turns: Sequence[Sequence[Message]]
    """The last one is new input."""


def not_proven(template: Template, manners: Manners) -> str:
    """Return what does not add up; nothing if all does."""
    return next((probe.what for probe in _probes(manners) if not adds_up(template, probe)), "")


def adds_up(template: Template, probe: Probe) -> bool:
    """Whether a conversation is the sum of its turns."""
    opening, turns = probe.opening, probe.turns
    try:
        whole = template.whole(opening, [message for turn in turns for message in turn])
        parts = [template.preamble(opening)]
        parts += map(template.turn, turns, cycles_of(turns))
        parts.append(template.answer_opens(opening))
    except ModelError:
        return False
    return [piece for part in parts for piece in part] == list(whole)


def cycles_of(turns: Sequence[Sequence[Message]]) -> list[Cycle]:
    """Return whether the user speaks after each of the turns."""
    asking = [any(message["role"] == "user" for message in turn) for turn in turns]
    return [Cycle.CLOSED if any(asking[n + 1 :]) else Cycle.OPEN for n in range(len(turns))]


def _probes(manners: Manners) -> Iterator[Probe]:
    yield from _talks(_opening())
    yield Probe("instructions", _opening(_SYSTEM), _PLAIN)
    yield Probe("examples", _opening(_SYSTEM, user("1?"), answer("1.")), _PLAIN)
    yield from (Probe("an option", _opening(options=one), _PLAIN) for one in _OPTIONS)
    if "thoughts" in manners.known:
        yield from (Probe("thoughts", _opening(options=one), _THOUGHTS) for one in ({}, *_OPTIONS))
    if {"calls", "outputs"} <= manners.known:
        tools = [TOOL] if "tools" in manners.known else []
        for opening in (_opening(), _opening(tools=tools), _opening(_SYSTEM, tools=tools)):
            yield from _agents(opening)


def _opening(
    *messages: Message,
    tools: Sequence[Mapping[str, Any]] = (),
    options: Mapping[str, Any] | None = None,
) -> Opening:
    return Opening(messages, tools, options or {})


_OPTIONS: Sequence[Mapping[str, Any]] = ({"enable_thinking": False}, {"enable_thinking": True})
_THOUGHTS = (
    [user("Why?"), answer("So.", "Let me see.")],
    [user("Really?"), answer("Yes.", "Hm,\n\nyes."), user("Yes?"), answer("No.", "No!")],
    [user("No?")],
)


def _talks(opening: Opening) -> Iterator[Probe]:
    yield Probe("the beginning", opening, ([user()],))
    yield Probe("talk", opening, (*_PLAIN[:1], [user("Go on"), answer("I do")], *_PLAIN))
    yield Probe(
        "several messages", opening, ([user("a"), user("b"), answer("c")], [user(), user()])
    )
    yield Probe("silence", opening, ([user(""), answer("")], [user("")]))
    yield Probe(
        "unicode",
        opening,
        ([user("\u00fc\u4f60\U0001f980"), answer("\u00e9\n\n ")], [user(" \n\u00df ")]),
    )
    late = ([_SYSTEM, user(), answer()], [_SYSTEM, user(), answer()], [user(), _SYSTEM])
    yield Probe("a late system message", opening, late)
    yield Probe("a resent conversation", opening, ([user(), answer(), user(), answer()], [user()]))


def _agents(opening: Opening) -> Iterator[Probe]:
    one, done = call("a"), [output("b"), answer("c")]
    yield Probe("calls", opening, ([user(), one], done, [user()]))
    yield Probe("an output", opening, ([user(), one], [output("b")]))
    yield Probe("calls in one turn", opening, ([user(), one, *done], [user()]))
    two = calls({KEY: "1"}, {KEY: "2", OTHER_KEY: "3"})
    both = [output("4", "call_0"), output("5", "call_1")]
    yield Probe(
        "several calls", opening, ([user(), two], [*both, two], [*both, answer()], [user()])
    )
    aloud = {**one, "content": "Let me see."}
    yield Probe("calls with text", opening, ([user(), aloud], [output("b"), aloud], done, [user()]))
    pensive = {**one, "reasoning_content": "Hm, a tool."}
    thought = [output("b"), answer("c", "Done.")]
    yield Probe(
        "thoughts before calls",
        opening,
        ([user(), pensive], [output("b"), pensive], thought, [user()]),
    )
    yield Probe(
        "open thoughts", opening, ([user(), pensive], [output("b"), pensive], [output("c")])
    )
    yield Probe(
        "an output and more", opening, ([user(), one], [output("b"), user(), one], done, [user()])
    )
    nothing = {"id": "call_1", "type": "function", "function": {"name": NAME, "arguments": "{}"}}
    empty: Message = {"role": "assistant", "content": "", "tool_calls": [nothing]}
    yield Probe("empty calls", opening, ([user(), empty], [output(""), answer("")], [user()]))
