"""Sums of a journal, by tenant."""

import dataclasses
import io

from rich.console import Console

from service.audit.lines import line
from service.usage import Totals, Used, table, totals
from tests.service.audit.entries import ENTRY


def shown(found: Totals) -> str:
    console = Console(file=io.StringIO(), width=140, color_system=None)
    with console.capture() as capture:
        console.print(table(found))
    return capture.get()


def test_entries_are_summed_up_by_tenant_the_largest_first() -> None:
    other = dataclasses.replace(ENTRY, tenant="other", output_tokens=5000)
    failed = dataclasses.replace(ENTRY, outcome="failed", output_tokens=0, seconds=0.25)
    found = totals(map(line, (ENTRY, other, failed)))
    assert found.rows == [
        Used("other", 1, 0, 100, 90, 5000, 5, 1.5),
        Used("acme", 2, 1, 200, 180, 20, 10, 1.75),
    ]
    assert found.unreadable == 0


def test_what_is_no_entry_is_told_and_not_summed() -> None:
    whole = line(ENTRY)
    broken = [whole[:40], b"[]", b"5", b'{"tenant":"x"}', whole.replace(b"100", b'"100"'), b"\xff"]
    found = totals([*broken, b"\n", whole])
    assert [row.tenant for row in found.rows] == ["acme"]
    assert (found.rows[0].turns, found.unreadable) == (1, 6)
    assert "6 lines are no entries" in shown(found)


def test_text_is_read_as_bytes_are() -> None:
    assert totals([line(ENTRY).decode()]) == totals([line(ENTRY)])


def test_an_empty_journal_is_an_empty_table() -> None:
    assert "tenant" in shown(totals([]))


def test_the_table_shows_names_as_they_are_and_gives_the_terminal_no_orders() -> None:
    said = shown(totals([line(dataclasses.replace(ENTRY, tenant="[red]a\x1b[2J"))]))
    assert "[red]a?[2J" in said
    assert "\x1b" not in said
