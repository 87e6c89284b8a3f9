"""What came of a benchmark, template by template: as it is found out, and for people and machines."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from service.bench.conversation import CYCLE, Conversation, places, speaks
from service.bench.subjects import Candidate, Subject
from service.bench.turns import Bench, Point
from service.errors import ModelError

_USUAL = 4  # characters of a token


@dataclass(frozen=True, slots=True)
class Row:
    """One template."""

    name: str
    additive: bool = False
    """Whether it is told turn by turn; otherwise every prompt is rendered at once."""
    points: tuple[Point, ...] = ()
    missing: str = ""
    """Why there are no figures, or no more of them."""

    @property
    def steady(self) -> Sequence[Point]:
        """The figures of turns in which a tool's output comes in."""
        return [point for point in self.points if not speaks(point.turn)]

    @property
    def spoken(self) -> Point | None:
        """The figures of a late turn in which the user speaks."""
        return next((point for point in self.points if speaks(point.turn)), None)

    @property
    def differs(self) -> bool:
        """Whether turn by turn it came to other ids than at once."""
        return any(p.outcome not in {"identical", "respelled"} for p in self.points)

    def as_json(self) -> dict[str, Any]:
        """Return it for machines; times in microseconds."""
        return {
            "renderer": self.name,
            "additive": self.additive,
            "missing": self.missing or None,
            "turns": [_as_json(point) for point in self.points],
        }


class Size(NamedTuple):
    """How long a conversation is."""

    turns: int
    tokens: int

    @property
    def measured(self) -> list[int]:
        """The places that are looked at: among them one, late, where the user speaks."""
        last = (self.turns - 1) // CYCLE * CYCLE + 1
        return sorted({*places(self.turns), last})


async def rows(candidates: Sequence[Candidate], size: Size) -> AsyncIterator[Row]:
    """Yield the row of each candidate, again and again as it grows."""
    for candidate in candidates:
        row = Row(candidate.name)
        yield row
        try:
            subject = candidate.load()
            conversation = await _conversation(subject, size)
            async for point in Bench(subject).points(conversation, size.measured):
                row = Row(candidate.name, subject.template.additive, (*row.points, point))
                yield row
        except ModelError as error:
            yield Row(row.name, row.additive, row.points, error.message)


async def _conversation(subject: Subject, size: Size) -> Conversation:
    """Return a conversation that has about so many tokens in this vocabulary."""
    characters = _USUAL * size.tokens
    draft = Conversation(size.turns, characters).texts()
    ids = await subject.tokenizer.encode([[text] for text in draft])
    return Conversation(size.turns, characters * size.tokens // sum(map(len, ids)))


def _as_json(point: Point) -> dict[str, Any]:
    spent = {"turn_by_turn": point.by_turn, "at_once": point.at_once}
    figures = {
        f"{way}_{clock}_us": round(getattr(one, clock) * 1e6)
        for way, one in spent.items()
        for clock in one._fields
    }
    spoken = {"user_speaks": speaks(point.turn)}
    return {"turn": point.turn, "tokens": point.tokens, "ids": point.outcome, **spoken, **figures}
