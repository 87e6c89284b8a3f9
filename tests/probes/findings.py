"""What came of probes, counted by route."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.probes.guesses import Guess, Kind
from tests.probes.route import Route


class Form(NamedTuple):
    """What an answer may depend on: how was asked, not about what."""

    route: Route
    kind: Kind
    guess: Guess


class Probe(NamedTuple):
    """A question."""

    form: Form
    name: str
    hers: bool
    """Whether the name came of one of hers; if not, it is a control: it came of nothing."""


class Example(NamedTuple):
    """An answer that should have been another. Names are masked in both."""

    form: Form
    answer: bytes
    expected: bytes


@dataclass(slots=True)
class Findings:
    """Hits are answers about her names that are not those about names that never were."""

    probes: Counter[Route] = field(default_factory=Counter)
    hits: Counter[Route] = field(default_factory=Counter)
    controls: Counter[Route] = field(default_factory=Counter)
    unsteady: Counter[Route] = field(default_factory=Counter)
    """Controls that were not answered alike: were there any, hits would mean little."""
    examples: list[Example] = field(default_factory=list)
    """The first of each form."""

    def note(self, probe: Probe, *, alike: bool) -> None:
        """Count an answer."""
        asked, different = (
            (self.probes, self.hits) if probe.hers else (self.controls, self.unsteady)
        )
        asked[probe.form.route] += 1
        if not alike:
            different[probe.form.route] += 1

    def show(self, example: Example) -> None:
        """Keep an example."""
        if all(one.form != example.form for one in self.examples):
            self.examples.append(example)

    @property
    def routes(self) -> Sequence[Route]:
        """All that were asked."""
        return [*self.probes]
