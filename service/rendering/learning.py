"""Turns cut out of what a chat template renders, where that can be done: a template learned by probing.

A turn is rendered between made-up messages, whose words are found again; what lies between their turn and
this one is always the same, and is compared. So a turn costs what it is long. What a template does that
does not add up is found out here: by cutting, and by a proof on conversations of many kinds.
"""

import hashlib
from collections.abc import Sequence

import orjson

from service.errors import ModelError
from service.rendering import Cycle, Files, Message, Opening, Piece, Uncut
from service.rendering.configured import ends_of
from service.rendering.jinja import Chat, JinjaTemplate
from service.rendering.made_up import AFTER, BEFORE, TOOL, answer, call, output, outputs, user
from service.rendering.manners import manners_of
from service.rendering.proving import not_proven
from service.rendering.seams import Follower, Seams, first, last, special, start
from service.rendering.specials import Specials
from service.rendering.wording import syntax_of

_MOST_KEPT = 64  # kinds of openings
_SYSTEM: Message = {"role": "system", "content": AFTER}


class LearnedTemplate:
    """A model's own chat template, turn by turn where it allows that."""

    def __init__(self, template: JinjaTemplate, ends: frozenset[int]) -> None:
        """`ends` are the ends of answers that the model's configuration names."""
        self._template = template
        self._manners = manners_of(template)
        self._tools = [TOOL] if template.has_tool_use else []
        self._opens: dict[bytes, Sequence[Piece]] = {}
        self.answer_closes: Sequence[Piece] = self._closing() or sorted(ends)[:1]
        self.ends = ends | {piece for piece in self.answer_closes if isinstance(piece, int)}
        self.syntax = syntax_of(template, self._manners)
        """How the model writes thoughts and calls."""
        self.kept_ends = frozenset[int]()
        self.refusal = ""
        """What keeps turns from being rendered one by one; empty if nothing does."""
        self._seams = Seams((), (), {})
        self._learn()

    @classmethod
    def of(cls, files: Files, specials: Specials) -> "LearnedTemplate":
        """Learn the template of a model's files. Raises `ModelError` for the operator."""
        return cls(JinjaTemplate.of(files, specials), ends_of(files, specials))

    @property
    def identity(self) -> str:
        """Tells what it renders apart from what other templates do."""
        manners = self._manners
        whole = f"{self._template.identity}\n{manners}\n{sorted(manners.known)}".encode()
        return hashlib.blake2b(whole, digest_size=16).hexdigest()

    @property
    def additive(self) -> bool:
        """Whether turns can be rendered one by one: `refusal` says why not."""
        return not self.refusal

    def answer_opens(self, opening: Opening) -> Sequence[Piece]:
        """Return what makes the model answer. Raises `ModelError`."""
        key = orjson.dumps(opening.options, option=orjson.OPT_SORT_KEYS)
        if key not in self._opens:
            if len(self._opens) >= _MOST_KEPT:
                self._opens.clear()
            self._opens[key] = self._asking(opening)
        return self._opens[key]

    def preamble(self, opening: Opening) -> Sequence[Piece]:
        """Render what stands before the first turn. Raises `ModelError`."""
        pieces = self._template.told(self._chat(opening, [user(AFTER)]))
        return pieces[: self._seams.end(pieces, "user")]

    def turn(self, messages: Sequence[Message], cycle: Cycle) -> Sequence[Piece]:
        """Render a turn, whatever came before it. Raises `ModelError`, and `Uncut`."""
        if not messages:
            return []
        before, seam = self._before(messages)
        follower, after = self._after(messages, cycle)
        told = self._manners.later([*before, *messages, *after])
        chat = Chat(self._manners.joined(told), self._tools)
        asks = follower == "answer"
        pieces = self._template.asked(chat) if asks else self._template.told(chat)
        return pieces[start(pieces, seam) : self._seams.end(pieces, follower)]

    def whole(self, opening: Opening, messages: Sequence[Message]) -> Sequence[Piece]:
        """Render a whole conversation up to where the model answers. Raises `ModelError`.

        A system message of a turn stays where it is, also where nothing comes before it.
        """
        if self.additive and messages and messages[0]["role"] == "system":
            turn = self.turn(messages, Cycle.OPEN)
            return [*self.preamble(opening), *turn, *self.answer_opens(opening)]
        return self._template.asked(self._chat(opening, messages))

    def _chat(self, opening: Opening, messages: Sequence[Message]) -> Chat:
        if opening.tools and "tools" not in self._manners.known:
            raise ModelError("invalid_prompt", "This model cannot be told of tools.")
        told = self._manners.first([*opening.messages, *messages])
        return Chat(self._manners.joined(told), opening.tools, opening.options)

    def _before(self, messages: Sequence[Message]) -> tuple[Sequence[Message], Sequence[Piece]]:
        """Return what is said before a turn, and what then lies between the two."""
        heads = (n for n, message in enumerate(messages) if message["role"] != "tool")
        answered = messages[: next(heads, len(messages))]
        if answered:
            return [user(), call(BEFORE, *answered)], self._seams.after_call
        return [user(), answer(BEFORE)], self._seams.after_answer

    def _after(
        self, messages: Sequence[Message], cycle: Cycle
    ) -> tuple[Follower, Sequence[Message]]:
        """Return who speaks after a turn, and what is said."""
        last_one = messages[-1]
        match last_one["role"], cycle:
            case "assistant", Cycle.CLOSED:
                return "user", [user(AFTER)]
            case "assistant", Cycle.OPEN if last_one.get("tool_calls"):
                return "tool", list(outputs(last_one, AFTER))
            case "assistant", Cycle.OPEN if "system" in self._seams.before:
                return "system", [_SYSTEM]
            case "assistant", Cycle.OPEN:
                return "nobody", []
            case _, Cycle.CLOSED:
                return "assistant", [answer(AFTER), user()]
            case _:
                return "answer", []

    def _learn(self) -> None:
        """Learn what lies between turns, and prove it."""
        try:
            self._seams = self._learned()
        except ModelError:
            self.refusal = "its turns run into each other"
        else:
            self.refusal = not_proven(self, self._manners)

    def _learned(self) -> Seams:
        """Return what lies between turns. Raises `ModelError` if nothing could be told apart."""
        closes = self.answer_closes
        after_call: Sequence[Piece] = ()
        asked = self._said([user(), answer(), user(BEFORE)])
        told = [user(), answer(), user(BEFORE), answer(AFTER), user()]
        before: dict[Follower, Sequence[Piece]] = {
            "user": self._beginning([user(), answer(BEFORE), user(AFTER)], closes),
            "answer": self.answer_opens(Opening([], [], {})),
            "assistant": self._beginning(told, asked[first(asked, BEFORE) + 1 :]),
            "nobody": [],
        }
        if {"calls", "outputs"} <= self._manners.known:
            told = [user(), call(BEFORE), output(AFTER)]
            after_call = self._behind_call(told)
            before["tool"] = self._beginning(told, after_call)
        if self._manners.late_system == "system":
            before["system"] = self._beginning([user(), answer(BEFORE), _SYSTEM], closes)
        return Seams(closes, after_call, before)

    def _beginning(self, messages: Sequence[Message], ending: Sequence[Piece]) -> Sequence[Piece]:
        """Return what stands between the end of a turn and the words of the next.

        Raises `ModelError` if no special token keeps the two apart.
        """
        pieces = self._said(messages)
        beginning = pieces[start(pieces, ending) : last(pieces, AFTER) + 1]
        if not special([*ending[-1:], *beginning[:1]]):
            raise Uncut
        return beginning

    def _behind_call(self, messages: Sequence[Message]) -> Sequence[Piece]:
        """Return what stands behind a call's arguments up to the end of the answer."""
        pieces = self._said(messages)
        rest = pieces[first(pieces, BEFORE) + 1 :]
        closes = list(self.answer_closes)
        for end in range(len(rest)):
            if rest[end : end + len(closes)] == closes:
                return rest[: end + len(closes)]
        raise Uncut

    def _asking(self, opening: Opening) -> Sequence[Piece]:
        """Return what asking for an answer adds to a conversation."""
        chat = Chat(self._manners.later([user()]), self._tools, opening.options)
        told, asked = self._template.told(chat), self._template.asked(chat)
        if asked[: len(told)] != told:
            raise Uncut
        return asked[len(told) :]

    def _closing(self) -> Sequence[Piece]:
        """Return what ends an answer: as if nothing followed, or else all up to the next special token.

        Nothing, if no special token ends it.
        """
        try:
            last_one, followed = self._behind_answer(), self._behind_answer(user())
        except ModelError:
            return []
        if not special(followed[:1]):
            return []
        if special(last_one[:1]) and followed[: len(last_one)] == last_one:
            return last_one
        texts = next((n for n, piece in enumerate(followed[1:]) if isinstance(piece, int)), 0)
        return followed[: 1 + texts]

    def _behind_answer(self, *messages: Message) -> Sequence[Piece]:
        pieces = self._said([user(), answer(BEFORE), *messages])
        return pieces[first(pieces, BEFORE) + 1 :]

    def _said(self, messages: Sequence[Message]) -> list[Piece]:
        return self._template.told(Chat(self._manners.later(messages), self._tools))
