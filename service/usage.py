"""What tenants have used, by the lines of a journal: docs/journal.md."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

_SUMS = ("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens")


class Used(NamedTuple):
    """What one tenant has used."""

    tenant: str
    turns: int
    unfinished: int
    """Turns that failed or were cancelled."""
    input_tokens: int
    cached_tokens: int
    """Of those: what the model server had computed before."""
    output_tokens: int
    reasoning_tokens: int
    """Of those: what was not for the client's user."""
    seconds: float


@dataclass(slots=True)
class Totals:
    """A journal's sums."""

    rows: Sequence[Used]
    """One for each tenant, those with most tokens first."""
    unreadable: int
    """Lines that are no entries: a process that is killed may leave the beginning of one."""


@dataclass(slots=True)
class _Sum:
    numbers: Counter[str] = field(default_factory=Counter)
    """By the names that `Used` has for them."""
    seconds: float = 0.0

    def add(self, entry: Mapping[str, Any]) -> None:
        """Add an entry. Raises `KeyError` or `TypeError`, and adds nothing, if it is none."""
        one = {name: _count(entry[name]) for name in _SUMS}
        one |= {"turns": 1, "unfinished": entry["outcome"] in ("failed", "cancelled")}
        self.seconds += entry["seconds"]
        self.numbers.update(one)

    def row(self, tenant: str) -> Used:
        """Return the sums so far."""
        return Used(tenant=tenant, seconds=round(self.seconds, 3), **self.numbers)


def totals(lines: Iterable[bytes | str]) -> Totals:
    """Sum up the lines of a journal, or of several."""
    sums: dict[str, _Sum] = {}
    unreadable = 0
    for line in lines:
        try:
            entry = orjson.loads(line)
            sums.setdefault(entry["tenant"], _Sum()).add(entry)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            unreadable += bool(line.strip())
    rows = (total.row(tenant) for tenant, total in sums.items() if total.numbers)
    return Totals(sorted(rows, key=_rank), unreadable)


def table(found: Totals) -> Table:
    """Return the sums for people."""
    told = Table("tenant", box=SIMPLE_HEAD, caption=_caption(found.unreadable), caption_style="")
    for name in Used._fields[1:]:
        told.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for row in found.rows:
        told.add_row(_legible(row.tenant), *(f"{number:,}" for number in row[1:]))
    return told


def _count(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError
    return value


def _rank(row: Used) -> tuple[int, str]:
    return -(row.input_tokens + row.output_tokens), row.tenant


def _caption(unreadable: int) -> Text | None:
    if not unreadable:
        return None
    return Text(f"{unreadable:,} lines are no entries, and not in these sums", style="yellow")


def _legible(tenant: str) -> Text:
    """Show a name as it is, but for what a terminal would take as an order."""
    return Text("".join(sign if sign.isprintable() else "?" for sign in tenant))
