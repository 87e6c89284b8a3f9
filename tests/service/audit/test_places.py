"""The journal that the operator asks for, by one setting."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.audit.otlp import Otlp
from service.audit.places import BadJournal, journal, sink_of
from service.audit.sinks import JsonLines, StandardOutput
from service.metrics import Metrics


async def test_without_a_journal_there_is_none() -> None:
    async with journal("none", Metrics(CollectorRegistry()), 1) as kept:
        assert kept is None


@pytest.mark.parametrize("place", ["/nowhere/journal", "/proc"])
async def test_a_journal_that_cannot_be_is_told(place: str) -> None:
    with pytest.raises(BadJournal, match=f"cannot be written to {place}: "):
        sink_of(place)


def test_the_place_says_what_kind_of_journal_it_is(tmp_path: Path) -> None:
    assert isinstance(sink_of("stdout"), StandardOutput)
    for address in ("http://127.0.0.1:4318", "https://collector.example"):
        sink = sink_of(address)
        assert isinstance(sink, Otlp)
        sink.close()
    file = sink_of(str(tmp_path / "journal"))
    assert isinstance(file, JsonLines)
    file.close()
