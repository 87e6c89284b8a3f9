"""Files that entries are appended to: whole lines, also when disks are full and processes are killed."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from service.audit import Entry
from service.audit.sinks import JsonLines, StandardOutput
from service.usage import totals
from tests.service.audit.entries import entry

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"}


def entries(*numbers: int) -> Sequence[Entry]:
    return [entry(number) for number in numbers]


def written(path: Path) -> list[str]:
    return [orjson.loads(line)["response_id"] for line in path.read_bytes().splitlines()]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def writer(path: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process that writes a journal; its logs are in `logs` beside it."""
    command = [sys.executable, "-m", "tests.service.audit.writing", str(path), *arguments]
    with (
        (path.parent / "logs").open("w") as logs,
        subprocess.Popen(
            command, env=ENVIRONMENT, cwd=ROOT, stdout=subprocess.PIPE, stderr=logs, text=True
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def test_entries_are_appended_and_only_for_the_owner_to_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    sink = JsonLines(path)
    sink.write(entries(1, 2))
    sink.write(entries(3))
    sink.close()
    assert written(path) == ["resp_1", "resp_2", "resp_3"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_new_process_goes_on_where_the_old_one_ended(tmp_path: Path) -> None:
    for number in (1, 2):
        sink = JsonLines(tmp_path / "journal")
        sink.write(entries(number))
        sink.close()
    assert written(tmp_path / "journal") == ["resp_1", "resp_2"]


def test_a_rotated_file_is_followed_by_a_new_one(tmp_path: Path) -> None:
    path, old = tmp_path / "journal", tmp_path / "journal.1"
    sink = JsonLines(path)
    sink.write(entries(1))
    path.rename(old)
    sink.write(entries(2))
    old.unlink()
    path.rename(old)
    path.touch(0o600)  # as logrotate's "create" does
    sink.write(entries(3))
    sink.close()
    assert (written(old), written(path)) == (["resp_2"], ["resp_3"])


def test_a_file_that_was_copied_and_truncated_is_written_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    sink = JsonLines(path)
    sink.write(entries(1))
    os.truncate(path, 0)
    sink.write(entries(2))
    sink.close()
    assert written(path) == ["resp_2"]


def test_a_file_is_one_processes_alone(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "journal")
    with pytest.raises(OSError, match="another process writes this journal"):
        JsonLines(tmp_path / "journal")
    sink.close()
    JsonLines(tmp_path / "journal").close()


def test_half_a_line_of_a_killed_process_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(b'{"time":"2026-')
    sink = JsonLines(path)
    sink.write(entries(1))
    sink.close()
    found = totals(path.read_bytes().splitlines())
    assert (found.rows[0].turns, found.unreadable) == (1, 1)


def test_a_full_disk_is_told() -> None:
    sink = JsonLines(Path("/dev/full"))
    with pytest.raises(OSError, match="No space left") as full:
        sink.write(entries(1))
    assert full.value.errno == errno.ENOSPC
    sink.close()


def test_what_does_not_fit_leaves_no_trace_and_is_told(tmp_path: Path) -> None:
    path, logs = tmp_path / "journal", tmp_path / "logs"
    with writer(path, "20000") as process:
        until(lambda: logs.exists() and "\n" in logs.read_text())
        process.terminate()
        said, _ = process.communicate(timeout=30)
    ids = written(path)
    assert ids == [f"resp_{number}" for number in range(len(ids))]
    told = [json.loads(line) for line in logs.read_text().splitlines()]
    assert [line["event"] for line in told] == ["journal_failing", "journal_not_written"]
    assert told[1]["entries"] == int(said) - len(ids)


def test_a_killed_process_leaves_whole_lines(tmp_path: Path) -> None:
    path, before = tmp_path / "journal", 0
    for _ in range(3):
        with writer(path) as process:
            until(lambda: path.exists() and path.stat().st_size > before + 50_000)  # noqa: B023
            process.send_signal(signal.SIGKILL)
            process.wait(10)
        before = path.stat().st_size
    content = path.read_bytes()
    found = totals(content.splitlines())
    assert found.unreadable <= 3
    assert found.rows[0].turns >= content.count(b"\n") - 3


def test_a_stopped_process_has_written_everything(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with writer(path) as process:
        until(lambda: path.exists() and path.stat().st_size > 10_000)
        process.terminate()
        said, _ = process.communicate(timeout=30)
    assert written(path) == [f"resp_{number}" for number in range(int(said))]


def test_standard_output_takes_them_too(capfd: pytest.CaptureFixture[str]) -> None:
    sink = StandardOutput()
    sink.write(entries(1, 2))
    sink.close()
    said = [orjson.loads(line)["response_id"] for line in capfd.readouterr().out.splitlines()]
    assert said == ["resp_1", "resp_2"]
