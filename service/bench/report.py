"""The figures of a benchmark for people, and the machine that they belong to."""

import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version

import orjson
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from service.bench.conversation import places
from service.bench.rows import Row, Size
from service.bench.turns import Point

_PACKAGES = ("tokenizers", "jinja2", "renderers", "openai-harmony")
_BARS = "▁▂▃▄▅▆▇█"
_KEY = (
    "First line of a cell: CPU of a turn's prompt, turn by turn. Second line: CPU of the same prompt "
    "rendered at once, and how many times more that is. Bars: the first lines, the longest is the most. "
    "Where the user speaks, what the model thought since the user's last message is left out again."
)


def machine() -> dict[str, str]:
    """Return what figures depend on: the machine, and the versions of what does the work."""
    found = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    return found | {name: _version(name) for name in _PACKAGES}


def as_json(found: Iterable[Row], size: Size) -> str:
    """Return all figures for machines."""
    report = {**machine(), **size._asdict(), "renderers": [row.as_json() for row in found]}
    return orjson.dumps(report, option=orjson.OPT_INDENT_2).decode()


def table(found: Iterable[Row], size: Size) -> Group:
    """Return the figures so far."""
    columns = [f"turn {number}" for number in places(size.turns)]
    told = Table("renderer", box=SIMPLE_HEAD, padding=(0, 1))
    for column in (*columns, "user speaks"):
        told.add_column(column, justify="right", no_wrap=True)
    told.add_column("flat?", no_wrap=True)
    for row in found:
        told.add_row(*_cells(row, len(columns)))
    about = ", ".join(f"{name} {what}" for name, what in machine().items())
    title = f"An agent's conversation of {size.turns} turns and about {size.tokens:,} tokens"
    return Group(Text(title, style="bold"), Text(about, style="dim"), told, Text(_KEY, style="dim"))


def _cells(row: Row, columns: int) -> list[Text]:
    steady = [_cell(point) for point in row.steady]
    blank = [Text()] * (columns - len(steady))
    spoken = _cell(row.spoken) if row.spoken else Text()
    return [_named(row), *steady, *blank, spoken, Text(_bars(row.steady), style="cyan")]


def _named(row: Row) -> Text:
    """Return the name of a template, and what is to be known about it."""
    if row.missing:
        return Text(row.name).append(f"\n{row.missing}", style="yellow")
    if not row.points:
        return Text(row.name).append("\n...", style="dim")
    way = "turn by turn" if row.additive else "always at once"
    said = f"{way}, {row.points[-1].tokens:,} tokens, {_ids(row)}"
    return Text(row.name, style="bold").append(f"\n{said}", style="red" if row.differs else "dim")


def _ids(row: Row) -> str:
    if row.differs:
        return "OTHER IDS"
    identical = all(point.outcome == "identical" for point in row.points)
    return "same ids" if identical else "same ids but for answers, which stay as sampled"


def _cell(point: Point) -> Text:
    text = Text(_time(point.by_turn.cpu), style="bold")
    return text.append(f"\n{_time(point.at_once.cpu)} {point.ratio:.0f}x", style="not bold")


def _time(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} µs" if seconds < 0.001 else f"{seconds * 1e3:.1f} ms"


def _bars(points: Sequence[Point]) -> str:
    """Return a bar for every figure, the highest for the most."""
    spent = [point.by_turn.cpu for point in points]
    return "".join(_BARS[int(one / max(spent) * (len(_BARS) - 1))] for one in spent)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
