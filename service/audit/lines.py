"""An entry in words: the members that it is written down as, and the line that holds them."""

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime

import orjson

from service.audit import Entry

Member = str | int | float | bool | None

_MEMBERS = tuple(field.name for field in dataclasses.fields(Entry) if field.name != "ended_at")


def members(entry: Entry) -> Mapping[str, Member]:
    """Return an entry's members but for its time, each text one that any encoding can hold."""
    return {name: _writable(getattr(entry, name)) for name in _MEMBERS}


def line(entry: Entry) -> bytes:
    """Return an entry as one line of JSON: docs/journal.md."""
    time = datetime.fromtimestamp(entry.ended_at, UTC)
    said = {"time": time, **members(entry)}
    return orjson.dumps(said, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)


def _writable(value: Member) -> Member:
    """Replace halves of surrogate pairs: one of them would spoil what it is written with."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
