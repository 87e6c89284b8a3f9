"""The report: `python -m tests.canaries` runs every row, and says what was searched and what was found."""

import asyncio
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tests.canaries.rows import ASKED_FOR, ROWS
from tests.canaries.run import Report, run

_PAGE = 120  # characters, where there is no terminal
_MOST = 20  # that are told of one run


async def main(screen: Console) -> int:
    """Run everything; return how much was found where nothing may be."""
    wrong = 0
    for name, row in ROWS.items():
        for stored in (False, True):
            async with row() as about:
                report = await run(about, stored=stored)
            excused = ASKED_FOR.get(name) if stored else None
            wrong += _show(screen, report, excused)
    screen.print(f"[bold]Found where nothing may be: {wrong}[/]")
    return wrong


def _show(screen: Console, report: Report, excused: str | None) -> int:
    """Show a report; return how much of it is wrong."""
    screen.print(_table(report, excused))
    calls = "" if report.traced else "; strace is not installed: system calls were not searched"
    screen.print(f"{report.said:,} canaries said; {report.kept} records in the store{calls}\n")
    wrong = [one for one in report.found if one[0] != excused]
    for sink, place, form in wrong[:_MOST]:
        screen.print(Text(f"  {sink}: {place} ({form})", style="red"))
    empty = [one for one in report.searched if not (one.live and one.proved)]
    return len(wrong) + len(empty) + len(report.unseen) + (not report.stored and report.kept)


def _table(report: Report, excused: str | None) -> Table:
    title = f"{report.name}, store: {str(report.stored).lower()}"
    table = Table("sink", "bytes", "found", title=title, title_justify="left")
    table.columns[1].justify = table.columns[2].justify = "right"
    for one in report.searched:
        note = " (asked for)" if one.name == excused else "" if one.live else " (not in use)"
        table.add_row(one.name + note, f"{one.bytes:,}", str(len(one.found)))
    return table


if __name__ == "__main__":
    console = Console()
    console.width = console.width if console.is_terminal else _PAGE
    sys.exit(bool(asyncio.run(main(console))))
