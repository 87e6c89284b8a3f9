"""What is printed: probes and hits by route, and what answers' times tell."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from tests.probes.findings import Findings
from tests.probes.timing import Timing

SIGNIFICANT = 0.01
"""How probable a finding may be, of all on a table together, where there is nothing to be found."""
_EXAMPLES = 5


def show_findings(findings: Findings, store: str, console: Console) -> None:
    """Print how often each route was asked, and how often it said more than it may."""
    table = Table("transport", "route", "probes", "hits", title=f"Probes, store: {store}")
    for route in sorted(findings.probes, key=lambda route: (route.transport, route.name)):
        asked, hits = findings.probes[route], findings.hits[route]
        table.add_row(route.transport, route.name, f"{asked:,}", str(hits))
    table.add_section()
    table.add_row("", "all", f"{findings.probes.total():,}", str(findings.hits.total()))
    console.print(table)
    controls, unsteady = findings.controls.total(), findings.unsteady.total()
    console.print(
        f"{controls:,} controls, about names that never were: {unsteady} answered otherwise"
    )
    for example in findings.examples[:_EXAMPLES]:
        route = example.form.route
        console.print(f"{route.transport}, {route.name}, {example.form.guess.name}:")
        console.print(example.answer, example.expected, sep="\n", markup=False)


def show_timings(timings: Sequence[Timing], title: str, console: Console) -> None:
    """Print what can be told from times, and what cannot."""
    table = Table(
        *("route", "name", "never was", "shift [95 %]", "AUC", "Mann-Whitney p", "KS D", "KS p"),
        title=f"{title}, µs",
        caption=f"Told apart (!): p < {SIGNIFICANT} in all {len(timings)} together",
    )
    for timing in timings:
        compared = timing.compared
        shift = compared.shift
        mark = " !" if told_apart(timing, timings) else ""
        table.add_row(
            timing.route,
            timing.standing,
            f"{timing.median:.1f}",
            f"{shift.value:+.2f} [{shift.low:+.2f} {shift.high:+.2f}]",
            f"{compared.auc:.3f}{mark}",
            f"{compared.ranks.p:.2g}",
            f"{compared.shapes.statistic:.3f}",
            f"{compared.shapes.p:.2g}",
        )
    console.print(table)


def told_apart(timing: Timing, among: Sequence[Timing]) -> bool:
    """Tell whether a difference is more than chance, by Bonferroni over all that was looked at."""
    return timing.compared.p * len(among) < SIGNIFICANT
