"""What clients say is nowhere but where it belongs (docs/privacy.md), proven on real processes.

`python -m tests.canaries` runs more of the same, and prints what was searched.
"""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.canaries.canary import Canaries
from tests.canaries.rows import ROWS
from tests.canaries.run import Report, run
from tests.canaries.speech import Speech
from tests.canaries.watched import watched
from tests.replicas.process import until

BESIDE = {"steered", "interrupted", "vanished", "too large", "not let in", "refused"}
"""What becomes of turns and clients, beside how turns end."""
KEPT = {"conversation", "cancelled", "asked twice", "deleted"}


@pytest.fixture(
    scope="module",
    params=[("simulated", False), ("simulated", True), ("embedded", True), ("failing", False)],
    ids=lambda row: f"{row[0]}-{'stored' if row[1] else 'not-stored'}",
)
def report(request: pytest.FixtureRequest) -> Report:
    name, stored = request.param

    async def made() -> Report:
        async with ROWS[name]() as row:
            return await run(row, stored=stored)

    return asyncio.run(made())


def test_no_canary_is_in_any_sink(report: Report) -> None:
    assert list(report.found) == []


def test_every_sink_was_in_use_and_a_canary_in_it_would_have_been_found(report: Report) -> None:
    assert [one.name for one in report.searched if not (one.live and one.proved)] == []
    assert not report.unseen


def test_what_is_not_to_be_stored_makes_no_record(report: Report) -> None:
    assert (report.kept > 0) == report.stored


def test_clients_were_heard_and_answered_in_their_own_words(report: Report) -> None:
    assert report.said > 1000
    assert report.answered or not report.traced


def test_turns_ended_in_all_ways_there_are(report: Report) -> None:
    if not report.obeyed:
        pytest.skip("this model does not do as it is told")
    speech = Speech(Canaries(), "anywhere", model="simulator", stored=report.stored)
    ends = {f"{said.name}: response.{said.ends}" for said in speech.turns()}
    expected = ends | BESIDE | (KEPT if report.stored else set())
    assert expected - report.ended == set()


async def test_a_process_that_crashes_leaves_no_dump_of_its_memory(tmp_path: Path) -> None:
    async with watched(tmp_path, {}) as service:
        os.kill(service.process.pid, signal.SIGABRT)
        await until(service.ended)
        assert [list(disk.iterdir()) for disk in service.disks] == [[]] * len(service.disks)
