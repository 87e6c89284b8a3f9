"""Templates of the library `renderers`: well-kept ones, each made for one family of models.

They are made to render to ids; here they render to pieces, see `scaffold`. Most of them tell turns one
after the other: which do is found out by trying.
"""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, groupby, takewhile
from typing import Any, Literal, get_args

from service.errors import ModelError
from service.rendering import Cycle, Message, Opening, Piece, Template
from service.rendering.jinja import Chat
from service.rendering.manners import Known
from service.rendering.proving import adds_up
from service.rendering.scribe import Scribe, Told, installed, names_for, version
from service.rendering.specials import Specials
from service.rendering.trials import Probe, probes

_ASKED: Message = {"role": "user", "content": "Who are you?"}
_SAID: Message = {"role": "assistant", "content": "A model."}
_GIVEN: Message = {"role": "tool", "tool_call_id": "1", "name": "look", "content": "A tree."}
_ORDERED: Message = {"role": "system", "content": "Be brief."}
_PROBES = tuple(probes(get_args(Known)))


class LibraryTemplate:
    """A template of the library's, by the name that the library has for it.

    A system message of a turn stays where it stands, also at the very beginning; it is told as the user's
    where the template knows none there. Options count for what stands before the first turn and for how
    an answer opens: where turns can be rendered one by one they are told as they are without any.
    """

    def __init__(self, name: str, specials: Specials) -> None:
        """Learn how turns are told. Raises `ModelError`, for the operator, where that is impossible."""
        self._name = name
        self._specials = specials
        self._scribe = self._told_options({})
        self.identity = f"renderers/{version()}/{name}"
        self.ends = self._scribe.ends
        self.kept_ends = frozenset[int]()
        self._shared = _shared_ends(self._scribe)
        self._opens = _opens(self._scribe)
        self._before_opens = len(_asked(self._scribe).tail()) - len(self._opens)
        self.answer_closes: Sequence[Piece] = self._closes()
        self._late = _late_role(self._scribe)
        self.additive = True
        self.additive = all(map(self._adds_up, _PROBES))

    @classmethod
    def of(cls, model: str, specials: Specials, own: Template | None) -> "LibraryTemplate | None":
        """Return the library's template for a model, if it has one.

        Where the model comes with a template of its own, the two must agree: a name says little about a
        model that somebody has trained further. Where it has none, the name is all there is.
        """
        names = names_for(model) if installed() else []
        for name in names if own or len(names) == 1 else ():
            with contextlib.suppress(ModelError):
                template = cls(name, specials)
                if own is None or all(_agree(template, own, probe) for probe in _PROBES):
                    return template
        return None

    def answer_opens(self, opening: Opening) -> Sequence[Piece]:
        """Return what makes the model answer. Raises `ModelError` for options that it cannot have."""
        return _asked(self._told_options(opening.options)).tail()[self._before_opens :]

    def preamble(self, opening: Opening) -> Sequence[Piece]:
        """Render what stands before the first turn. Raises `ModelError`."""
        scribe = self._told_options(opening.options)
        told = scribe.asked(Chat([*opening.messages, _ASKED], opening.tools))
        return told.pieces[: self._start(told, len(opening.messages))]

    def turn(self, messages: Sequence[Message], cycle: Cycle) -> Sequence[Piece]:
        """Render a turn between others, made up. Raises `ModelError`."""
        if not messages:
            return []
        before = _before(messages)
        told_before = [*before, *self._later(messages)]
        if cycle is Cycle.OPEN and messages[-1]["role"] != "assistant":
            told = self._scribe.asked(Chat(told_before))
            return self._between(told, len(before))
        told = self._scribe.told(Chat([*told_before, *_after(messages, cycle)]))
        return told.pieces[self._start(told, len(before)) : self._start(told, len(told_before))]

    def whole(self, opening: Opening, messages: Sequence[Message]) -> Sequence[Piece]:
        """Render a whole conversation up to where the model answers. Raises `ModelError`."""
        if self.additive and messages and messages[0]["role"] == "system":
            return self._spliced(opening, self.turn(messages, Cycle.OPEN))
        chat = Chat([*opening.messages, *self._later(messages)], opening.tools)
        if not self.additive:
            return self._told_options(opening.options).asked(chat).pieces
        told = self._scribe.asked(chat)
        if not opening.options:
            return told.pieces
        return self._spliced(opening, self._between(told, len(opening.messages)))

    def _spliced(self, opening: Opening, turns: Iterable[Piece]) -> list[Piece]:
        return [*self.preamble(opening), *turns, *self.answer_opens(opening)]

    def _between(self, told: Told, first: int) -> list[Piece]:
        """Return what is told from a message on, without what opens the answer."""
        return told.pieces[self._start(told, first) : len(told.pieces) - len(self._opens)]

    def _start(self, told: Told, message: int) -> int:
        """Return where a message starts.

        A token that both ends an answer and begins what follows belongs to what follows.
        """
        start = told.start(message)
        if start and told.pieces[start - 1] in self._shared and told.answers(start - 1, message):
            return start - 1
        return start

    def _later(self, messages: Sequence[Message]) -> list[Message]:
        """Return messages as they can be told after others."""
        return [{**m, "role": self._late} if m["role"] == "system" else m for m in messages]

    def _told_options(self, options: Mapping[str, Any]) -> Scribe:
        return Scribe.of(self._name, self._specials, options)

    def _closes(self) -> list[Piece]:
        """Return what ends an answer, and stands between it and the next turn."""
        told = self._scribe.told(Chat([_ASKED, _SAID, _ASKED]))
        answer = told.pieces[told.start(1) : self._start(told, 2)]
        ends = [at for at, piece in enumerate(answer) if piece in self.ends]
        return answer[ends[-1] :] if ends else []

    def _adds_up(self, probe: Probe) -> bool:
        """Return whether a conversation comes to the same turn by turn; true if it cannot be told."""
        try:
            self.whole(probe.opening, [*chain.from_iterable(probe.turns)])
        except ModelError:
            return True
        return adds_up(self, probe)


def _agree(template: LibraryTemplate, own: Template, probe: Probe) -> bool:
    """Return whether two templates tell the same, or the model's own does not tell it at all."""
    messages = [*chain.from_iterable(probe.turns)]
    try:
        truth = own.whole(probe.opening, messages)
    except ModelError:
        return probe is not _PROBES[0]
    with contextlib.suppress(ModelError):
        return _joined(template.whole(probe.opening, messages)) == _joined(truth)
    return False


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Return pieces, texts that stand side by side as one."""
    grouped = groupby(pieces, key=lambda piece: isinstance(piece, str))
    parts = (["".join(map(str, group))] if text else group for text, group in grouped)
    return [piece for piece in chain.from_iterable(parts) if piece != ""]


def _asked(scribe: Scribe) -> Told:
    return scribe.asked(Chat([_ASKED]))


def _opens(scribe: Scribe) -> list[Piece]:
    """Return what opens an answer whether a user spoke before it or a tool."""
    after_user = _asked(scribe).tail()
    after_tool = scribe.asked(Chat([_ASKED, _calling([_GIVEN]), _GIVEN])).tail()
    pairs = zip(reversed(after_user), reversed(after_tool), strict=False)
    length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return after_user[len(after_user) - length :]


def _shared_ends(scribe: Scribe) -> frozenset[int]:
    """Return the ends of answers, if the beginning of what follows is what ends one."""
    lasts = []
    for follower in (_ASKED, _GIVEN):
        told = scribe.told(Chat([_ASKED, _calling([_GIVEN]), follower]))
        lasts.append(told.pieces[told.start(2) - 1])
    return scribe.ends if lasts[0] != lasts[1] and scribe.ends.issuperset(lasts) else frozenset()


def _late_role(scribe: Scribe) -> Literal["system", "user"]:
    """Return who says what a system message says that does not stand first."""
    with contextlib.suppress(ModelError):
        scribe.told(Chat([_ASKED, _SAID, _ORDERED, _ASKED]))
        return "system"
    return "user"


def _before(messages: Sequence[Message]) -> list[Message]:
    """Return messages that a turn may follow: with calls, if it begins with what they gave."""
    outputs = list(takewhile(lambda message: message["role"] == "tool", messages))
    return [_ASKED, _calling(outputs) if outputs else _SAID]


def _after(messages: Sequence[Message], cycle: Cycle) -> list[Message]:
    """Return messages that may follow a turn: what its calls gave, and the user if it is closed."""
    calls = messages[-1].get("tool_calls") or ()
    given: list[Message] = [{**_GIVEN, "tool_call_id": call["id"]} for call in calls]
    if cycle is Cycle.OPEN:
        return given or [_SAID]
    return [*given, _SAID, _ASKED] if given else [_ASKED]


def _calling(outputs: Sequence[Message]) -> Message:
    """Return an answer that calls what gave these outputs."""
    calls = [
        {
            "id": output["tool_call_id"],
            "type": "function",
            "function": {"name": output.get("name", "unknown"), "arguments": "{}"},
        }
        for output in outputs
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}
