"""Bob probes: at random, over all routes at once. Answers must depend on the form of a name only.

For every route and way of guessing the answer about a name that never was is taken first. Every later
answer has to be that one, to the byte, but for the name itself, for new ids and for times.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from functools import partial

from tests.probes.answers import gives_away, masked
from tests.probes.creates import Own
from tests.probes.customer import customer
from tests.probes.estate import Estate
from tests.probes.findings import Example, Findings, Form, Probe
from tests.probes.guesses import GUESSES, Kind, absent
from tests.probes.house import House
from tests.probes.route import Route
from tests.probes.routes import ROUTES
from tests.probes.wires import WIRES, Wire

ABREAST = 6
"""Connections of a transport that probe at the same time."""
_CONTROLS = 0.1
"""The part of the questions that is about names that never were."""
_WAIT = 15.0  # seconds for an answer
_ENDLESS = b"an answer that does not end"
_KEYS = {Kind.KEY, Kind.OTHER_KEY}
_OF_KEYS = [route for route in ROUTES if _KEYS & set(route.kinds)]


@dataclass(slots=True)
class Survey:
    """What is known of answers, and where they are counted."""

    estate: Estate
    advance: Callable[[], None] = lambda: None
    """Called after every probe."""
    findings: Findings = field(default_factory=Findings)
    expected: dict[Form, bytes] = field(default_factory=dict)

    def judge(self, probe: Probe, answer: bytes) -> None:
        """Compare an answer with what is answered about names that never were."""
        told, expected = masked(answer, probe.name), self.expected[probe.form]
        alike = told == expected and not gives_away(answer, probe.name, self.estate.secrets)
        self.findings.note(probe, alike=alike)
        if not alike:
            self.findings.show(Example(probe.form, told, expected))
        if probe.hers:
            self.advance()


@dataclass(slots=True)
class Prober:
    """One connection that probes, and another one after an answer that does not end."""

    survey: Survey
    opening: Callable[[], AbstractAsyncContextManager[Wire]]
    routes: Sequence[Route]
    own: Own
    chance: random.Random

    async def run(self, probes: int) -> None:
        """Ask so many times about her names, and now and then about others."""
        while probes > 0:
            async with self.opening() as wire:
                with suppress(TimeoutError):
                    while probes > 0:
                        probe = self.drawn()
                        probes -= probe.hers
                        await self.put(probe, wire)

    async def put(self, probe: Probe, wire: Wire) -> None:
        """Ask, and judge the answer. Raises `TimeoutError` if it does not end."""
        await self._know(probe.form, wire)
        try:
            answer = await self._ask(probe, wire)
        except TimeoutError:
            self.survey.judge(probe, _ENDLESS)
            raise
        self.survey.judge(probe, answer)

    def drawn(self) -> Probe:
        """Draw a question."""
        [route] = self.chance.choices(self.routes, [route.weight for route in self.routes])
        kind = self.chance.choice(route.kinds)
        guesses = GUESSES[kind]
        [guess] = self.chance.choices(guesses, [guess.weight for guess in guesses])
        form = Form(route, kind, guess)
        if self.chance.random() < _CONTROLS:
            return self._made(form, absent(kind), hers=False)
        return self.about_hers(form)

    def about_hers(self, form: Form) -> Probe:
        """Draw a question of a form."""
        name = self.chance.choice(self._hers(form.route, form.kind))
        return self._made(form, name, hers=True)

    def _hers(self, route: Route, kind: Kind) -> Sequence[str]:
        """Return her names of a kind. Keys are shared out: on a second route one would be Bob's own."""
        names = self.survey.estate.names[kind]
        return names[_OF_KEYS.index(route) :: len(_OF_KEYS)] if kind in _KEYS else names

    def _made(self, form: Form, name: str, *, hers: bool) -> Probe:
        return Probe(form, form.guess.made(name, self.own.of(form.kind), self.chance), hers)

    async def _know(self, form: Form, wire: Wire) -> None:
        """See to it that it is known what is answered about a name of this form that never was."""
        if form not in self.survey.expected:
            probe = self._made(form, absent(form.kind), hers=False)
            answer = await self._ask(probe, wire)
            self.survey.expected.setdefault(form, masked(answer, probe.name))

    async def _ask(self, probe: Probe, wire: Wire) -> bytes:
        async with asyncio.timeout(_WAIT):
            return await wire.ask(probe.form.route.request(probe.name, self.own))


async def probers(house: House, key: str, survey: Survey, seed: int) -> Sequence[Prober]:
    """Get some ready on every transport, with a key: Bob's, unless the method itself is on trial."""
    chance = random.Random(seed)
    async with customer(house.address, key) as who:
        return [
            Prober(
                survey,
                partial(opening, house.address, key),
                [route for route in ROUTES if route.transport == transport],
                await who.furnished(),
                random.Random(chance.random()),
            )
            for transport, opening in WIRES.items()
            for _ in range(ABREAST)
        ]


async def probe(ready: Sequence[Prober], count: int) -> None:
    """Ask so many times about her names, all routes about as often."""
    routes = sum(len(prober.routes) for prober in ready)
    shares = [count * len(prober.routes) // routes for prober in ready]
    shares[0] += count - sum(shares)
    async with asyncio.TaskGroup() as group:
        for prober, share in zip(ready, shares, strict=True):
            group.create_task(prober.run(share))
