"""How a model writes thoughts and calls: read off what its template makes of made-up ones."""

import re
from collections.abc import Sequence
from itertools import takewhile

from service.errors import ModelError
from service.parsing.syntax import Calls, JsonCalls, Syntax, TaggedCalls
from service.rendering import Message
from service.rendering.jinja import Chat, JinjaTemplate
from service.rendering.made_up import (
    AFTER,
    BEFORE,
    KEY,
    NAME,
    OTHER_KEY,
    OTHER_VALUE,
    SAID,
    THOUGHT,
    TOOL,
    VALUE,
    answer,
    calls,
    outputs,
    user,
)
from service.rendering.manners import Manners

_ARGUMENTS = {KEY: VALUE, OTHER_KEY: OTHER_VALUE}
_JSON = re.compile(
    rf'\{{\s*"{KEY}"\s*:\s*"{VALUE}"\s*,\s*"{OTHER_KEY}"\s*:\s*"{OTHER_VALUE}"\s*\}}'
)
_TAG_BEGUN = re.compile(r"[<\[][^<>\[\]]*\Z")
_TAG_ENDED = re.compile(r"\A[^<>\[\]]*[>\]]")
_COMMON_TAGS = ("<think>", "</think>")


def syntax_of(template: JinjaTemplate, manners: Manners) -> Syntax:
    """Return how a model writes its answers, as far as its template tells."""
    wording = _Wording(template, manners)
    opens, closes = wording.thoughts() or ("", "")
    return Syntax(thought_opens=opens, thought_closes=closes, calls=wording.calls(opens, closes))


class _Wording:
    """Reads the text that a template makes of answers."""

    def __init__(self, template: JinjaTemplate, manners: Manners) -> None:
        self._template = template
        self._manners = manners
        self._tools = [TOOL]

    def thoughts(self) -> tuple[str, str] | None:
        """Return the tags around thoughts."""
        if "thoughts" in self._manners.known:
            header = self._header()
            text = self._answer([user(BEFORE), answer(SAID, THOUGHT)], header)
            opens, _, rest = text.partition(THOUGHT)
            closes = rest.partition(SAID)[0].strip()
            opens = opens.strip() or _opening(header, closes)
            return (opens, closes) if opens and closes else None
        source = "".join(self._template.sources.values())
        known = _COMMON_TAGS[1] in source or _COMMON_TAGS[1] in self._template.specials.ids
        return _COMMON_TAGS if known else None

    def calls(self, opens: str, closes: str) -> Calls | None:
        """Return how calls are written; `opens` and `closes` stand around thoughts."""
        if not {"calls", "outputs"} <= self._manners.known:
            return None
        try:
            one = self._call(1)
        except ModelError:
            return None
        try:
            two = self._call(2)
        except ModelError:
            two = one  # some templates know one call at a time
        before = one.partition(NAME)[0]
        if opens and before.lstrip().startswith(opens):
            before = before.partition(closes)[2]
        return _json_calls(before.lstrip(), one, two) or _tagged_calls(before.lstrip(), one, two)

    def _call(self, count: int) -> str:
        """Return the text of an answer that makes so many calls. Raises `ModelError`."""
        made = calls(*[_ARGUMENTS] * count)
        told = [user(BEFORE), made, *outputs(made, AFTER)]
        text = self._answer(told, self._header())
        return text.partition(self._end())[0]

    def _end(self) -> str:
        """Return what ends an answer, as text."""
        pieces = self._template.told(Chat([user(), answer(SAID)], self._tools))
        said = next(n for n, p in enumerate(pieces) if isinstance(p, str) and SAID in p)
        end = next((piece for piece in pieces[said + 1 :] if isinstance(piece, int)), None)
        return AFTER if end is None else self._template.specials.spelling[end]

    def _header(self) -> str:
        """Return what makes the model answer, as text."""
        chat = Chat([user(BEFORE)], self._tools)
        told, asked = self._template.told(chat), self._template.asked(chat)
        return self._template.specials.spelled(asked[len(told) :])

    def _answer(self, messages: Sequence[Message], header: str) -> str:
        """Return what stands behind a user's message, without what an answer always begins with."""
        told = self._template.told(Chat(self._manners.later(messages), self._tools))
        alone = self._template.told(Chat([user(BEFORE)], self._tools))
        spelled = self._template.specials.spelled
        ending = spelled(alone).partition(BEFORE)[2]
        text = spelled(told).partition(BEFORE)[2].removeprefix(ending)
        return text[len(_common_beginning(text, header)) :]


def _opening(header: str, closes: str) -> str:
    """Return the tag that `closes` closes, if answers begin with it."""
    opens = closes.replace("/", "", 1)
    return opens if opens != closes and opens in header else ""


def _json_calls(before: str, one: str, two: str) -> JsonCalls | None:
    """Return how calls are written whose arguments are a JSON object."""
    found, both = _JSON.search(one), list(_JSON.finditer(two))
    if not found or not both:
        return None
    after = one[found.end() :]
    if len(both) > 1:
        between = two[both[0].end() : both[1].start()].partition(NAME)[0]
        before, after = _common_end(before, between), _common_beginning(after, between)
    middle = one[: found.start()].partition(NAME)[2]
    return JsonCalls(before, middle, after)


def _tagged_calls(before: str, one: str, two: str) -> TaggedCalls | None:
    """Return how calls are written whose arguments stand one by one."""
    words = [NAME, KEY, VALUE, OTHER_KEY, OTHER_VALUE]
    parts: list[str] = []
    for word in words:
        part, found, one = one.partition(word)
        if not found:
            return None
        parts.append(part)
    _, before_key, before_value, between, _ = parts
    after_value = between.removesuffix(before_key)
    if after_value == between or not one.startswith(after_value):
        return None
    after = one.removeprefix(after_value)
    again = two.split(OTHER_VALUE)[1].removeprefix(after_value)
    if NAME in again:
        separator = again.partition(NAME)[0]
        before, after = _common_end(before, separator), _common_beginning(after, separator)
    return TaggedCalls(before, before_key, before_value, after_value, after)


def _common_beginning(first: str, second: str) -> str:
    """Return what two texts begin with alike, up to the last whole tag."""
    same = _same(first, second)
    return same if same in {first, second} else _TAG_BEGUN.sub("", same)


def _common_end(first: str, second: str) -> str:
    """Return what two texts end with alike, from the first whole tag."""
    same = _same(first[::-1], second[::-1])[::-1]
    return same if same in {first, second} else _TAG_ENDED.sub("", same)


def _same(first: str, second: str) -> str:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return "".join(character for character, _ in same)
