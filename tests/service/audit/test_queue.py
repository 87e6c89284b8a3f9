"""Entries wait for their sink, are written in order, and are lost only when there is no other way."""

import asyncio
import threading
from collections.abc import Callable, Sequence

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from service.audit import Entry
from service.audit.queue import QueuedJournal, QueueLimits
from service.metrics import Metrics
from tests.service.audit.entries import ENTRY, entry

QUICK = QueueLimits(gather=0.001, backoff=0.001, longest_backoff=0.002)


class Stage:
    """A sink that takes, refuses or hangs as the test says."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.batches: list[int] = []
        self.attempts = 0
        self.closed = False
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.asked = threading.Event()

    def write(self, entries: Sequence[Entry]) -> None:
        self.attempts += 1
        self.asked.set()
        assert self.gate.wait(10)
        if self.error:
            raise self.error
        self.batches.append(len(entries))
        self.taken += [entry.response_id for entry in entries]

    def close(self) -> None:
        self.closed = True


class Play:
    def __init__(self, limits: QueueLimits = QUICK) -> None:
        self.registry = CollectorRegistry()
        self.sink = Stage()
        self.journal = QueuedJournal(self.sink, Metrics(self.registry), limits)

    def count(self, result: str) -> float:
        labels = {"result": result}
        return self.registry.get_sample_value("turnwire_journal_entries_total", labels) or 0.0

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                await asyncio.sleep(0.001)


async def test_entries_are_written_in_order_and_counted() -> None:
    play = Play()
    play.journal.start()
    for number in range(2500):
        play.journal.add(entry(number))
    await play.until(lambda: play.count("written") == 2500)
    assert play.sink.taken == [f"resp_{number}" for number in range(2500)]
    await play.journal.stop(5)
    assert play.count("dropped") == 0


async def test_what_comes_together_is_written_together() -> None:
    play = Play()
    for number in range(2500):
        play.journal.add(entry(number))
    play.journal.start()
    await play.journal.stop(5)
    assert play.sink.batches == [1000, 1000, 500]
    assert play.sink.closed


async def test_adding_neither_waits_nor_raises_while_the_sink_hangs() -> None:
    play = Play()
    play.sink.gate.clear()
    play.journal.start()
    play.journal.add(entry(0))
    await play.until(play.sink.asked.is_set)
    for number in range(1, 100):
        play.journal.add(entry(number))
    play.sink.gate.set()
    await play.journal.stop(5)
    assert len(play.sink.taken) == 100


async def test_a_graceful_stop_loses_nothing_under_load() -> None:
    play = Play()
    play.journal.start()
    added = 0
    async with asyncio.timeout(10):
        while play.sink.attempts < 3:
            play.journal.add(entry(added))
            added += 1
            await asyncio.sleep(0)
    await play.journal.stop(5)
    assert play.sink.taken == [f"resp_{number}" for number in range(added)]


async def test_an_outage_delays_and_is_told_once() -> None:
    play = Play()
    play.sink.error = OSError(28, "No space left on device")
    with capture_logs() as logs:
        play.journal.start()
        for number in range(10):
            play.journal.add(entry(number))
        await play.until(lambda: play.sink.attempts > 5)
        play.sink.error = None
        await play.until(lambda: play.count("written") == 10)
    assert play.sink.taken == [f"resp_{number}" for number in range(10)]
    assert [(line["event"], line.get("reason"), line.get("dropped")) for line in logs] == [
        ("journal_failing", "No space left on device", None),
        ("journal_recovered", None, 0),
    ]
    await play.journal.stop(5)


async def test_in_a_long_outage_the_oldest_are_dropped_and_counted() -> None:
    play = Play(QueueLimits(waiting=50, batch=20, gather=0.001, backoff=0.001))
    play.sink.error = OSError(28, "No space left on device")
    with capture_logs() as logs:
        play.journal.start()
        for number in range(200):
            play.journal.add(entry(number))
            await asyncio.sleep(0)
        await play.until(lambda: play.count("dropped") == 150)
        play.sink.error = None
        await play.journal.stop(5)
    assert play.sink.taken == [f"resp_{number}" for number in range(150, 200)]
    assert len(logs) == 2


async def test_a_sink_that_hangs_is_told_once_entries_are_dropped() -> None:
    play = Play(QueueLimits(waiting=50, gather=0.001))
    play.sink.gate.clear()
    with capture_logs() as logs:
        play.journal.start()
        play.journal.add(entry(0))
        await play.until(play.sink.asked.is_set)
        for number in range(1, 101):
            play.journal.add(entry(number))
        play.sink.gate.set()
        await play.journal.stop(5)
    assert play.sink.taken == ["resp_0", *(f"resp_{number}" for number in range(51, 101))]
    assert [line["event"] for line in logs] == ["journal_failing", "journal_recovered"]
    assert logs[1]["dropped"] == play.count("dropped") == 50


async def test_a_stop_ends_in_time_and_says_what_was_not_written() -> None:
    play = Play()
    play.sink.error = OSError(28, "No space left on device")
    play.journal.start()
    for number in range(7):
        play.journal.add(entry(number))
    with capture_logs() as logs:
        async with asyncio.timeout(10):
            await play.journal.stop(0.05)
    assert {"event": "journal_not_written", "log_level": "error", "entries": 7} in logs
    assert play.count("dropped") == 7


async def test_a_stop_ends_in_time_while_a_write_hangs_and_leaves_its_file_alone() -> None:
    play = Play()
    play.sink.gate.clear()
    play.journal.start()
    play.journal.add(entry(0))
    await play.until(play.sink.asked.is_set)
    async with asyncio.timeout(10):
        await play.journal.stop(0.05)
    assert play.count("dropped") == 1
    assert not play.sink.closed
    play.sink.gate.set()


async def test_a_sink_that_comes_back_while_stopping_gets_everything() -> None:
    play = Play()
    play.sink.error = OSError(28, "No space left on device")
    play.journal.start()
    play.journal.add(entry(0))
    await play.until(lambda: play.sink.attempts > 0)
    stopping = asyncio.create_task(play.journal.stop(10))
    await asyncio.sleep(0)
    play.sink.error = None
    await stopping
    assert play.sink.taken == ["resp_0"]


async def test_a_defect_of_a_sink_costs_its_batch_only() -> None:
    play = Play()
    play.sink.error = ValueError("canary-5f3a9c")
    play.journal.start()
    play.journal.add(ENTRY)
    with capture_logs() as logs:
        await play.until(lambda: play.count("dropped") == 1)
    assert [line["event"] for line in logs] == ["journal_defect"]
    play.sink.error = None
    play.journal.add(entry(1))
    await play.journal.stop(5)
    assert play.sink.taken == ["resp_1"]


async def test_what_comes_after_the_end_is_counted_as_dropped() -> None:
    play = Play()
    play.journal.start()
    await play.journal.stop(5)
    play.journal.add(ENTRY)
    assert play.count("dropped") == 1


@pytest.mark.parametrize("waiting", [1, 100])
async def test_no_more_wait_than_may(waiting: int) -> None:
    play = Play(QueueLimits(waiting=waiting))
    for number in range(1000):
        play.journal.add(entry(number))
    assert len(play.journal._waiting) == waiting
    assert play.count("dropped") == 1000 - waiting
    play.journal.start()
    await play.journal.stop(5)
    assert play.sink.taken[-1] == "resp_999"
