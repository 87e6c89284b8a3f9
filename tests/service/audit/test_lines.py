"""What an entry is written down as."""

import dataclasses
import json
import re
from datetime import UTC, datetime
from pathlib import Path

from service.audit import Entry
from service.audit.lines import line, members
from tests.service.audit.entries import ENTRY

DOCS = Path(__file__).parents[3] / "docs" / "journal.md"


def test_an_entry_is_one_line_of_json() -> None:
    written = line(ENTRY)
    assert written.endswith(b"}\n")
    assert written.count(b"\n") == 1
    assert json.loads(written) == {
        "time": "2026-11-23T04:36:40.250000Z",
        "tenant": "acme",
        "credential": "k1",
        "transport": "websocket",
        "response_id": "resp_1",
        "model": "simulator",
        "outcome": "completed",
        "error": None,
        "stored": True,
        "seconds": 1.5,
        "input_tokens": 100,
        "cached_tokens": 90,
        "output_tokens": 20,
        "reasoning_tokens": 5,
        "input_items": 2,
        "flagged": None,
    }


def test_the_time_is_rfc_3339_in_utc() -> None:
    time = json.loads(line(ENTRY))["time"]
    assert time.endswith("Z")
    assert datetime.fromisoformat(time) == datetime.fromtimestamp(ENTRY.ended_at, UTC)


def test_a_name_cannot_begin_a_line_of_its_own() -> None:
    written = line(dataclasses.replace(ENTRY, tenant='a\n{"tenant":"b"}\r\u2028', model='"'))
    assert written.count(b"\n") == 1
    assert json.loads(written)["tenant"].startswith("a\n{")


def test_half_a_surrogate_pair_spoils_nothing() -> None:
    assert json.loads(line(dataclasses.replace(ENTRY, tenant="a\ud800b")))["tenant"] == "a?b"


def test_every_member_is_documented_and_nothing_else() -> None:
    section = DOCS.read_text().partition("## An entry")[2].partition("\n## ")[0]
    documented = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert documented == list(json.loads(line(ENTRY)))


def test_every_member_of_an_entry_is_written() -> None:
    names = {field.name for field in dataclasses.fields(Entry)}
    assert {*members(ENTRY), "ended_at"} == names
