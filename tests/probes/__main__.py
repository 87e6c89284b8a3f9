"""Probes of one tenant at another's things, and what the times of answers tell: `make probes`.

    python -m tests.probes --probes 100000 --store sqlite
    python -m tests.probes --probes 0 --samples 4000 --planted 1 2 5 10 50

The second form times only, and a service too that was made to give tenants away by so many
microseconds. Exits with 1 if anything was found that must not be.
"""

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.probes import timing
from tests.probes.customer import customer
from tests.probes.estate import Estate, Wealth
from tests.probes.findings import Findings
from tests.probes.house import STORES, House, Kept, house, leaky_house
from tests.probes.report import show_findings, show_timings, told_apart
from tests.probes.survey import Survey, probe, probers
from tests.probes.timing import CONTROL, NEVER, OWN_DELETED, Timing, compared

_CONSOLE = Console(width=150)


def main() -> int:
    """Do it, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--probes", type=int, default=100_000)
    parser.add_argument("--store", choices=STORES, default="memory")
    parser.add_argument("--samples", type=int, default=4000, help="of each standing, on each route")
    parser.add_argument("--planted", type=float, nargs="*", default=[], metavar="MICROSECONDS")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().getrandbits(32))
    arguments = parser.parse_args()
    _CONSOLE.print(f"seed {arguments.seed}")
    return uvloop.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    found = False
    if arguments.probes:
        found = await _probed(arguments.store, arguments.probes, arguments.seed)
    if arguments.samples:
        found |= await _timed(arguments.store, arguments.samples, arguments.seed)
        if arguments.planted:
            await _planted(arguments.planted, arguments.samples, arguments.seed)
    return int(found)


async def _probed(store: Kept, count: int, seed: int) -> bool:
    """Probe, print, and tell whether there was a hit or a change."""
    with tempfile.TemporaryDirectory() as folder:
        async with house(store, Path(folder)) as place, customer(place.address, place.alice) as who:
            estate = Estate(who)
            await estate.found(Wealth())
            findings = await _survey(place, estate, count, seed)
            changes = await estate.changes()
    show_findings(findings, store, _CONSOLE)
    _CONSOLE.print(f"{len(changes)} of Alice's things are not as they were")
    return bool(findings.hits or findings.unsteady or changes)


async def _survey(place: House, estate: Estate, count: int, seed: int) -> Findings:
    with _bar("probing", count) as bar:
        survey = Survey(estate, advance=lambda: next(bar))
        await probe(await probers(place, place.bob, survey, seed), count)
    return survey.findings


async def _timed(store: Kept, each: int, seed: int) -> bool:
    """Time, print, and tell whether anything of Alice's can be told from what never was."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        async with house(store, Path(folder)) as place:
            timings = await _timings(place, each, chance)
            keys = timing.times_of_keys(place, each, chance)
    timings += compared("handshake with a key that is wrong", keys, chance)
    hers = [one for one in timings if one.standing != OWN_DELETED]
    show_timings(hers, f"What is not his, store: {store}, {each:,} samples each", _CONSOLE)
    own = [one for one in timings if one.standing == OWN_DELETED]
    show_timings(own, "What he deleted himself", _CONSOLE)
    return any(told_apart(one, hers) for one in hers if one.standing != CONTROL)


async def _timings(place: House, each: int, chance: random.Random) -> list[Timing]:
    timings: list[Timing] = []
    async with (
        customer(place.address, place.alice) as alice,
        customer(place.address, place.bob) as bob,
    ):
        names = await timing.standings(alice, bob)
    routes = timing.routes_timed()
    with _bar("timing", len(routes)) as bar:
        for route in routes:
            taken = timing.times(place, route, names[route.kinds[0]], each, chance)
            timings += compared(f"{route.transport} {route.name}", taken, chance)
            next(bar)
    return timings


async def _planted(microseconds: Sequence[float], each: int, seed: int) -> None:
    """Time services that give tenants away, and print what was seen of it."""
    chance, [route, *_] = random.Random(seed), timing.routes_timed()
    timings: list[Timing] = []
    for planted in microseconds:
        with tempfile.TemporaryDirectory() as folder:
            async with leaky_house(planted, Path(folder)) as place:
                names = await _never_and_hers(place)
                taken = timing.times(place, route, names, each, chance)
        timings += compared(f"{route.name}, planted {planted:g} µs", taken, chance)
    show_timings(timings, "What would have been seen", _CONSOLE)


async def _never_and_hers(place: House) -> timing.Names:
    async with customer(place.address, place.alice) as alice:
        return {NEVER: timing.never_responses(), "hers": await timing.responses_of(alice)}


@contextmanager
def _bar(what: str, count: int) -> Iterator[Iterator[None]]:
    """Show how far something is: `next` is one step."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=_CONSOLE, transient=True) as progress:
        task = progress.add_task(what, total=count)

        def steps() -> Iterator[None]:
            while True:
                progress.advance(task)
                yield

        yield steps()


if __name__ == "__main__":
    sys.exit(main())
