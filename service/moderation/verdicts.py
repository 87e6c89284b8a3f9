"""What classifiers say of texts, and how clients are told."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import orjson


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a classifier says of something."""

    model: str
    """Who says it."""
    scores: Mapping[str, float]
    """By category, from 0 to 1."""
    categories: frozenset[str]
    """Those under which it is flagged."""
    flagged: bool

    @property
    def passes(self) -> bool:
        """Whether it may be let through where what is flagged is withheld."""
        return not self.flagged

    def members(self) -> dict[str, object]:
        """Return its JSON form. Only texts are classified, so only texts are claimed."""
        return {
            "type": "moderation_result",
            "model": self.model,
            "flagged": self.flagged,
            "categories": {category: category in self.categories for category in self.scores},
            "category_scores": self.scores,
            "category_applied_input_types": {category: ["text"] for category in self.scores},
        }


@dataclass(frozen=True, slots=True)
class Failure:
    """No verdict could be had. Neither member says anything of what was to be classified."""

    code: str
    message: str

    @property
    def passes(self) -> bool:
        """Never: where what is flagged is withheld, so is what nobody could look at."""
        return False

    def members(self) -> dict[str, object]:
        """Return its JSON form."""
        return {"type": "error", "code": self.code, "message": self.message}


Screened: TypeAlias = Verdict | Failure
"""What came of a screening."""


class Classifier(Protocol):
    """Tells which texts belong to categories that someone minds."""

    @property
    def name(self) -> str:
        """What clients ask for."""

    @property
    def version(self) -> str:
        """Changes with the verdicts it would give: they are kept under it."""

    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        """Return a verdict for each text, or why there is none for any. Has a deadline of its own."""

    def close(self) -> None:
        """Let go of everything."""


def combined(model: str, verdicts: Iterable[Verdict]) -> Verdict:
    """Return the gravest of several verdicts, category by category."""
    scores: dict[str, float] = {}
    categories: frozenset[str] = frozenset()
    flagged = False
    for verdict in verdicts:
        for category, score in verdict.scores.items():
            scores[category] = max(score, scores.get(category, 0.0))
        categories |= verdict.categories
        flagged = flagged or verdict.flagged
    return Verdict(model, scores, categories, flagged)


def moderation_json(of_input: Screened, of_output: Screened) -> str:
    """Return the JSON form of both verdicts: `Response.moderation_json`."""
    return orjson.dumps({"input": of_input.members(), "output": of_output.members()}).decode()
