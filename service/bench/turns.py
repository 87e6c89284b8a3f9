"""What it costs to make the prompts of one conversation: turn by turn as in service, and each at once.

CPU time is that of the whole process, threads of the tokenizer included, and garbage is collected as ever.
Every figure is a median; the two ways take turns, so that both meet the same disturbances.
"""

import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from itertools import takewhile
from typing import NamedTuple, TypeVar

from service.backends import Prompt
from service.backends.tools import Toolbox
from service.bench.conversation import INSTRUCTIONS, Conversation, Turn, tools
from service.bench.subjects import Subject
from service.conversation import Renderings, Segment
from service.rendering import Cycle, Piece
from service.rendering.encodings import Decimal
from service.rendering.preambles import opening_of
from service.rendering.proof import Outcome, Proof
from service.rendering.renderer import Renderer
from service.rendering.turns import Turns
from turnwire.v1 import items_pb2, responses_pb2

T = TypeVar("T")

_SETTINGS = responses_pb2.Settings(instructions=INSTRUCTIONS)
_TOOLS = tools()
_ENCODING = Decimal()
_REPETITIONS = 3
_IN_A_ROW = 11
"""Turns take so little that it tells what ran before them: the first of a row find the caches cold."""


class Spent(NamedTuple):
    """Time, in seconds."""

    cpu: float
    wall: float


class Point(NamedTuple):
    """What the prompt of one turn costs."""

    turn: int
    """Its number, from 1."""
    tokens: int
    """How long the prompt is."""
    by_turn: Spent
    """To render what is new, join it with what is kept, and keep the answer."""
    at_once: Spent
    """To parse all items, render them and tokenise that: what a server without state does."""
    outcome: Outcome
    """Whether the two came to the same ids."""

    @property
    def ratio(self) -> float:
        """How many times the CPU of a turn it takes to make its prompt at once."""
        return self.at_once.cpu / self.by_turn.cpu


class Bench:
    """A conversation that is carried on with one renderer."""

    def __init__(self, subject: Subject) -> None:
        self._template, self._tokenizer = subject
        self._renderer = Renderer(*subject, _ENCODING, Proof.never())
        self._history: list[Segment] = []

    async def points(
        self, conversation: Conversation, measured: Collection[int]
    ) -> AsyncIterator[Point]:
        """Carry a conversation on, and yield what turns cost in those of its places.

        Raises `ModelError` where the template has no form for the conversation.
        """
        for number, turn in enumerate(conversation.turns, 1):
            if number in measured:
                yield await self._point(number, conversation.place(number))
            await self._carry_on(turn)

    async def _carry_on(self, turn: Turn) -> None:
        kept: Renderings = {}
        if self._template.additive:
            prompt = _prompt(self._history, turn.asked)
            _, kept = await self._by_turn(prompt, await self._sampled(turn))
        self._history.append(Segment(None, [*turn.asked, *turn.answer], kept))

    async def _point(self, number: int, turn: Turn) -> Point:
        prompt, sampled = _prompt(self._history, turn.asked), await self._sampled(turn)
        kept = [dict(segment.rendered) for segment in self._history]
        by_turn, at_once = list[Spent](), list[Spent]()
        for _ in range(_REPETITIONS):
            spent, whole = await _timed(lambda: self._at_once(prompt))
            at_once.append(spent)
            for _ in range(_IN_A_ROW if self._template.additive else 1):
                self._restore(kept)
                spent, (ids, _) = await _timed(lambda: self._by_turn(prompt, sampled))
                by_turn.append(spent)
        outcome = "identical" if ids == whole else await self._outcome(prompt)
        tokens = len(_ENCODING.decode(whole))
        return Point(number, tokens, _median(by_turn), _median(at_once), outcome)

    def _restore(self, kept: Sequence[Renderings]) -> None:
        """Have nothing kept but what was before: a turn may add to it."""
        for segment, rendered in zip(self._history, kept, strict=True):
            segment.rendered = dict(rendered)

    async def _by_turn(self, prompt: Prompt, sampled: Sequence[int]) -> tuple[bytes, Renderings]:
        """Make a prompt as the service does, and keep what was sampled after it."""
        rendered = await self._renderer.render(prompt)
        ids = _ENCODING.join(part.data for part in rendered.told)
        return ids, self._renderer.answered(rendered, sampled, thought=True)

    async def _at_once(self, prompt: Prompt) -> bytes:
        """Make a prompt of items alone."""
        toolbox = Toolbox(prompt.tools)
        messages = Turns(prompt, toolbox).all()
        whole = self._template.whole(opening_of(prompt, toolbox), messages)
        (ids,) = await self._tokenizer.encode([whole])
        return _ENCODING.encode(ids)

    async def _outcome(self, prompt: Prompt) -> Outcome:
        """Prove a prompt as the service does: answers may differ from what would be rendered."""
        outcomes: list[Outcome] = []
        proof = Proof(1, outcomes.append)
        await Renderer(self._template, self._tokenizer, _ENCODING, proof).render(prompt)
        return outcomes[0] if outcomes else "not_additive"

    async def _sampled(self, turn: Turn) -> Sequence[int]:
        """Return the ids of an answer as if the model had written just what its template does.

        Where a template opens answers otherwise than it tells them later, they differ in that.
        """
        if not self._template.additive:
            return []
        answered = self._told([*turn.asked, *turn.answer])
        opens = self._template.answer_opens(opening_of(_prompt([], []), Toolbox(_TOOLS)))
        before, ids, closes = await self._tokenizer.encode(
            [[*self._told(turn.asked), *opens], answered, self._template.answer_closes]
        )
        same = takewhile(lambda pair: pair[0] == pair[1], zip(before, ids, strict=False))
        return ids[sum(1 for _ in same) : len(ids) - len(closes[1:])]

    def _told(self, items: Sequence[items_pb2.Item]) -> Sequence[Piece]:
        """Return a next turn in pieces."""
        turns = Turns(_prompt(self._history, items), Toolbox(_TOOLS))
        return self._template.turn(turns.messages(len(self._history)), Cycle.OPEN)


def _prompt(history: Sequence[Segment], asked: Sequence[items_pb2.Item]) -> Prompt:
    return Prompt(
        history=[*history],
        input=asked,
        legible=list,
        model="",
        settings=_SETTINGS,
        tools=_TOOLS,
        logprobs=False,
        extra_json="",
        conversation="",
        tenant="",
    )


async def _timed(work: Callable[[], Awaitable[T]]) -> tuple[Spent, T]:
    cpu, wall = time.process_time(), time.perf_counter()
    made = await work()
    return Spent(time.process_time() - cpu, time.perf_counter() - wall), made


def _median(spent: Sequence[Spent]) -> Spent:
    return Spent(*map(statistics.median, zip(*spent, strict=True)))
