"""Answers in which thoughts, text and calls follow each other, told apart by the marks between them."""

from collections.abc import Callable

from service.backends import ItemEnds, Produced
from service.parsing import Scores
from service.parsing.calls import Call, Outcome, Tools
from service.parsing.held import Held
from service.parsing.json_calls import NamedCall, ObjectCall
from service.parsing.marks import Form, NamedForm, ObjectForm, Place, TaggedForm, form_of
from service.parsing.stretches import Stretch, begun, stretch
from service.parsing.syntax import Syntax
from service.parsing.tagged_calls import TaggedCall

_SLICE = 2048  # characters that are read at once: what is held is copied at every mark
_LONGEST_SPACE = 512  # characters of white space that wait for what follows them


def thinking(syntax: Syntax, opened: str) -> bool:
    """Return whether an answer begins inside a thought."""
    opens, closes = opened.rfind(syntax.thought_opens), opened.rfind(syntax.thought_closes)
    return bool(syntax.thought_opens) and opens >= 0 and opens > closes


class FreeReader:
    """Text, thoughts and calls. What looks like a call and is none stays text.

    Thoughts stand at the beginning of an answer. They end with their mark, with a call, or never; the
    white space around them is dropped, and so are the empty lines between text and a call.
    """

    def __init__(self, tools: Tools, held: Held, syntax: Syntax, opened: str = "") -> None:
        """`held` is empty; `opened` is the text that makes the model answer."""
        self._tools = tools
        self._held = held
        self._syntax = syntax
        self._form = form_of(syntax.calls) if syntax.calls and tools else None
        self._text, self._thought = _stretches(syntax, self._form, held)
        self._stretch = self._thought if thinking(syntax, opened) else self._text
        self._at_start = True
        """Whether nothing but white space was written since the beginning, a thought or a call."""
        self._again = False
        """Whether a call was written."""
        self._call: Call
        self._closes: list[str] = []
        self._state: Callable[[], list[Produced] | None] = (
            self._begin if syntax.thought_opens else self._write
        )

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Read more; hold back calls, and what may be the beginning of one. Raises `ModelError`."""
        if not (self._at_start or self._held.text) and not self._stretch.doubtful(text):
            self._held.add(text, scores)
            return self._stretch.say(len(text))
        produced = self._read(text[:_SLICE], scores)
        for start in range(_SLICE, len(text), _SLICE):
            produced += self._read(text[start : start + _SLICE], ())
        return produced

    def end(self) -> list[Produced]:
        """Read what was held back; a call needs no closing mark at the very end. Raises `ModelError`."""
        if self._state == self._read_call:
            return [*self._call.end(), *self._after_call(), *self._rest()]
        return self._rest()

    def cut(self) -> list[Produced]:
        """Read what was held back; a call that has begun and is not whole stays unfinished."""
        if self._state == self._read_call:
            return [*self._call.cut(), *self._after_call(), *self._rest()]
        return self._rest()

    def _rest(self) -> list[Produced]:
        """Tell what is held, unless it belongs to a call."""
        if self._state == self._read_call:
            return []
        if self._state == self._close:
            return [ItemEnds()]
        held = self._held.text
        unsaid = self._at_start or self._stretch is self._thought
        return [] if unsaid and not held.strip() else self._stretch.say(len(held))

    def _read(self, text: str, scores: Scores) -> list[Produced]:
        self._held.add(text, scores)
        produced: list[Produced] = []
        while (step := self._state()) is not None:
            produced += step
        return produced

    def _begin(self) -> list[Produced] | None:
        """Read up to where it shows whether the answer begins with a thought."""
        words = _words(self._held.text)
        opens = self._syntax.thought_opens
        if words.startswith(opens):
            self._held.drop(len(self._held.text) - len(words) + len(opens))
            self._stretch = self._thought
        elif opens.startswith(words):
            return None
        self._state = self._skip if self._stretch is self._thought else self._write
        return []

    def _skip(self) -> list[Produced] | None:
        """Drop white space."""
        self._held.drop(len(self._held.text) - len(self._held.text.lstrip()))
        if not self._held.text:
            return None
        self._state = self._write
        return []

    def _write(self) -> list[Produced] | None:
        """Read text or thoughts up to the next mark; None if more must be read first."""
        if self._bare_call():
            return self._turn_to_call(0, len(self._held.text) - len(self._held.text.lstrip()) + 1)
        for mark in self._stretch.found(self._held.text):
            space = self._space_before(mark.start())
            start = mark.start() if space is None else space
            if self._stretch is self._thought and mark[0] == self._syntax.thought_closes:
                return self._end_thought(start, mark.end())
            if space is not None or mark[0] in self._stretch.anywhere:
                return self._turn_to_call(start, mark.end())
        sure = self._sure()
        if not sure:
            return None
        self._at_start = False
        return self._stretch.say(sure)

    def _bare_call(self) -> bool:
        """Return whether an object stands where a call needs no mark."""
        if not (self._form and self._at_start and self._stretch is self._text):
            return False
        opening = self._form.opening
        unmarked = opening.place is Place.START or (opening.repeats and self._again)
        return unmarked and _words(self._held.text).startswith("{")

    def _end_thought(self, start: int, end: int) -> list[Produced]:
        said = self._stretch.say(start)
        self._held.drop(end - start)
        self._stretch, self._state, self._at_start = self._text, self._skip, True
        return said

    def _turn_to_call(self, start: int, mark_ends: int) -> list[Produced]:
        assert self._form
        said = self._stretch.say(start)
        self._call = _open_call(self._form, self._tools, self._held, mark_ends - start)
        self._state, self._at_start = self._read_call, True
        return said

    def _read_call(self) -> list[Produced] | None:
        produced = self._call.read()
        return produced if produced is None else [*produced, *self._after_call()]

    def _after_call(self) -> list[Produced]:
        """Go on after what is known to be a call, or to be none."""
        if self._call.outcome is Outcome.TEXT:
            self._state, self._at_start = self._write, False
            return self._stretch.say(self._call.length)
        if self._call.outcome is Outcome.CALL:
            assert self._form
            self._closes = [*self._form.closes]
            self._stretch, self._state, self._again = self._text, self._close, True
        return []

    def _close(self) -> list[Produced] | None:
        """Drop what closes a call; it has ended when all of that was read, or something else stands there."""
        held = self._held.text
        words = _words(held)
        waits = any(mark.startswith(words) for mark in self._closes)
        for place, mark in enumerate(self._closes):
            if words.startswith(mark):
                self._held.drop(len(held) - len(words) + len(mark))
                del self._closes[: place + 1]
                return []
        if waits:
            return None
        self._state = self._write
        return [ItemEnds()]

    def _sure(self) -> int:
        """Return how much of what is held is nothing but text, or thoughts."""
        held = self._held.text
        if self._stretch.marks is None and not (self._at_start and self._form):
            return len(held)
        anywhere = len(held) - begun(held, self._stretch.anywhere_begun)
        before_anywhere = self._space_before(anywhere)
        before_line = self._space_before(len(held) - begun(held, self._stretch.at_line_begun))
        sure = anywhere if before_anywhere is None else before_anywhere
        return sure if before_line is None else min(sure, before_line)

    def _space_before(self, at: int) -> int | None:
        """Return where the white space before a place begins a line; None if it does not."""
        before = self._held.text[max(0, at - _LONGEST_SPACE) : at]
        words = len(before.rstrip())
        if self._at_start and not words and len(before) == at:
            return 0
        newline = before.find("\n", words)
        return None if newline < 0 else at - len(before) + newline


def _words(text: str) -> str:
    """Return a text without the white space in front of it, or all of it if there is too much."""
    words = text.lstrip()
    return words if len(text) - len(words) <= _LONGEST_SPACE else text


def _stretches(syntax: Syntax, form: Form | None, held: Held) -> tuple[Stretch, Stretch]:
    """Return how text is read, and how thoughts are."""
    place = form.opening.place if form else None
    marks = form.opening.marks if form else ()
    anywhere = [*marks] if place is Place.ANYWHERE else []
    at_line = [*marks] if place is Place.LINE else []
    closes = [syntax.thought_closes] if syntax.thought_closes else []
    return stretch(held.tell, anywhere, at_line), stretch(held.think, [*closes, *anywhere], at_line)


def _open_call(form: Form, tools: Tools, held: Held, mark_ends: int) -> Call:
    """Begin to read what may be a call; `held` begins with its mark, after white space."""
    match form:
        case ObjectForm():
            return ObjectCall(form, tools, held, mark_ends)
        case NamedForm():
            return NamedCall(form, tools, held, mark_ends)
        case TaggedForm():
            return TaggedCall(form, tools, held, mark_ends)
