"""The marks that a syntax puts around calls, as patterns: models are not exact about white space.

A mark that begins a call is a tag such as `<tool_call>`, `[TOOL_CALLS]` or `<function=`. Of several tags
only the last must be there: outer ones stand once around several calls, and are forgotten by models.
"""

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from service.parsing.syntax import Calls, JsonCalls, TaggedCalls

_MODELS = 64  # whose patterns are kept
_NAME = r"(?P<name>[A-Za-z0-9_.-]{1,128})"
_TAG = re.compile(r"\s*(<[^<>\s]*>|<[^<>\s]+|\[[A-Z_]+\])")
_TOKEN = re.compile(r"<[^<>\s]*>?|\[/?[A-Z_]+\]|`+|\d+|\w+|[^\w\s]")
_BARS = re.compile("[|\N{FULLWIDTH VERTICAL LINE}]")
_NAME_IN_OBJECT = re.compile(r'"(\w+)"\s*:\s*"\Z')
_ARGUMENTS_IN_OBJECT = re.compile(r'"\s*,\s*"(\w+)"\s*:\s*\Z')
_USUAL_KEYS = frozenset({"type", "id", "function"})
"""What may stand first in a call's object beside name and arguments."""


class Place(enum.Enum):
    """Where a call may begin."""

    ANYWHERE = "anywhere"
    """Its mark is nothing that anybody would write."""
    LINE = "line"
    """At the beginning of a line, or of an answer: in the middle of a sentence it is spoken about."""
    START = "start"
    """At the beginning of an answer, or right after another call: it has no mark."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What stands in front of a call."""

    marks: Sequence[str]
    """Each of them may be the first; none if a call is a bare object."""
    pattern: str
    repeats: bool
    """Whether calls stand in a JSON array, of which only the first has a mark."""

    @property
    def place(self) -> Place:
        """Where it may stand."""
        if not self.marks:
            return Place.START
        rare = all(mark[0] == "[" or _BARS.search(mark) for mark in self.marks)
        return Place.ANYWHERE if rare else Place.LINE


@dataclass(frozen=True, slots=True)
class ObjectForm:
    """Calls in one JSON object each, with name and arguments."""

    opening: Opening
    closes: Sequence[str]
    """What may follow, in this order, each of it or not."""
    object: re.Pattern[str]
    """Up to where the object begins."""
    begins: re.Pattern[str]
    """Up to where the arguments begin, in the usual order."""
    name_key: str
    arguments_key: str

    @property
    def first_keys(self) -> frozenset[str] | None:
        """What may stand first in the object; None if the mark says enough."""
        if self.opening.marks:
            return None
        return _USUAL_KEYS | {self.name_key, self.arguments_key}


@dataclass(frozen=True, slots=True)
class NamedForm:
    """Calls with the name in front of a JSON object, which is the arguments."""

    opening: Opening
    closes: Sequence[str]
    named: re.Pattern[str]
    """Up to where the name has ended."""
    begins: re.Pattern[str]
    """Up to where the arguments begin."""


@dataclass(frozen=True, slots=True)
class TaggedForm:
    """Calls with arguments between tags."""

    opening: Opening
    closes: Sequence[str]
    named: re.Pattern[str]
    begins: re.Pattern[str]
    """Up to where the name has ended, and a key or the end of the call follows."""
    key_opens: re.Pattern[str]
    key: re.Pattern[str]
    """A key, and what stands between it and its value."""
    value_closes: re.Pattern[str]
    """The end of a value, where another key or the end of the call follows."""
    last_value_closes: re.Pattern[str]
    """The end of a value at the end of an answer."""
    margins: tuple[str, str]
    """White space around values that is not part of them."""


Form: TypeAlias = ObjectForm | NamedForm | TaggedForm


@lru_cache(maxsize=_MODELS)
def form_of(calls: Calls) -> Form | None:
    """Return the patterns of a syntax; None if it says too little to tell a call from text."""
    if isinstance(calls, TaggedCalls):
        return _tagged(calls)
    name = _NAME_IN_OBJECT.search(calls.before_name)
    arguments = _ARGUMENTS_IN_OBJECT.match(calls.before_arguments)
    if name and arguments and "{" in calls.before_name:
        return _object(calls, name[1], arguments[1])
    return _named(calls)


def closing_marks(after: str) -> list[str]:
    """Return what stands after a call, one by one."""
    return _TOKEN.findall(after)


def _object(calls: JsonCalls, name_key: str, arguments_key: str) -> ObjectForm:
    before = calls.before_name[: calls.before_name.index("{")].rstrip()
    opening = _opening(before)
    after = calls.after_arguments[max(0, calls.after_arguments.rfind("}")) :]
    start = rf"\s*+{opening.pattern}\s*+"
    if opening.repeats:
        start = rf"\s*+(?:{opening.pattern}\s*+\[?)?\s*+"
    head = rf'\{{\s*+"{name_key}"\s*+:\s*+"{_NAME}"\s*+,\s*+"{arguments_key}"\s*+:\s*+(?=\{{)'
    return ObjectForm(
        opening,
        _closes(opening, after),
        re.compile(rf"{start}(?=\{{)"),
        re.compile(start + head),
        name_key,
        arguments_key,
    )


def _named(calls: JsonCalls) -> NamedForm | None:
    opening = _opening(calls.before_name)
    if not opening.marks:
        return None
    named = rf"\s*+{opening.pattern}\s*+{_NAME}(?=[^\w.-])"
    between = _loose(calls.before_arguments)
    return NamedForm(
        opening,
        _closes(opening, calls.after_arguments),
        re.compile(named),
        re.compile(rf"{named}\s*+{between}\s*+(?=\{{)"),
    )


def _tagged(calls: TaggedCalls) -> TaggedForm | None:
    opening = _opening(calls.before_name)
    closes = _closes(opening, calls.after_call)
    ends = [mark for mark in closes if mark[0] in "<["]
    if not (opening.marks and ends and calls.before_key.strip() and calls.after_value.strip()):
        return None
    key = _loose(calls.before_key[max(0, calls.before_key.rfind("<")) :])
    end = "|".join(map(re.escape, ends))
    named = rf"\s*+{opening.pattern}\s*+{_NAME}(?=[^\w.-])"
    value_closes = _loose(calls.after_value)
    return TaggedForm(
        opening,
        closes,
        re.compile(named),
        re.compile(rf"{named}(?=[^\w<\[]*(?:{key}|{end}))"),
        re.compile(rf"[^\w<\[]*{key}"),
        re.compile(rf"(?P<key>.{{1,256}}?)\s*+{_loose(calls.before_value)}", re.DOTALL),
        re.compile(rf"{value_closes}(?=\s*+(?:{key}|{end}))"),
        re.compile(rf"{value_closes}\s*+\Z"),
        (_margin_before(calls.before_value), _margin_after(calls.after_value)),
    )


def _opening(before: str) -> Opening:
    before = before.rstrip()
    repeats = before.endswith("[")
    before = before.removesuffix("[")
    tags, at = [], 0
    while tag := _TAG.match(before, at):
        tags.append(tag[1])
        at = tag.end()
    rest = before[at:].strip()
    if not tags and rest:
        return Opening([rest], _loose(rest), repeats)
    outer = "".join(rf"(?:{re.escape(tag)}\s*+)?" for tag in tags[:-1])
    last = re.escape(tags[-1]) if tags else ""
    return Opening(tags, rf"{outer}{last}\s*+{_loose(rest)}", repeats)


def _closes(opening: Opening, after: str) -> list[str]:
    """Return what may follow a call: also the ends of outer tags that the template did not show."""
    closes = closing_marks(after)
    ends = [mark.replace("begin", "end") for mark in reversed(opening.marks) if "begin" in mark]
    closes += [mark for mark in ends if mark not in closes]
    if opening.repeats:
        closes.insert(closes.index("]") if "]" in closes else len(closes), ",")
    return closes if opening.marks else [*closes, ";"]


def _loose(literal: str) -> str:
    """Return a pattern for a text, whatever white space is between its parts and whatever it numbers."""
    return r"\s*+".join(
        r"\d+" if token.isdigit() else re.escape(token) for token in _TOKEN.findall(literal)
    )


def _margin_before(text: str) -> str:
    return text[len(text.rstrip()) :]


def _margin_after(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]
