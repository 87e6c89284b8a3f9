"""Files that are read again when they change, and only then."""

import os
from pathlib import Path

import pytest
import structlog

from service.identity import is_tenant
from service.identity.live_files import BadFile, LiveFiles
from tests.service.identity.authority import replace
from tests.service.identity.clock import Clock


class File:
    """A file whose reader counts, and wants nothing that begins with `bad`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.read = 0
        self.clock = Clock()
        path.write_text("one")
        self.live = LiveFiles([path], self._read, self.clock)

    def _read(self) -> str:
        self.read += 1
        if (text := self.path.read_text()).startswith("bad"):
            raise BadFile(f"{self.path}, line 1: no good")
        return text

    def write(self, text: str) -> None:
        replace(self.path, text.encode())

    def later(self) -> str:
        self.clock.now += 1
        return self.live.content


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path / "file")


def test_a_change_is_seen_a_second_later(file: File) -> None:
    file.write("two")
    assert file.live.content == "one"
    assert file.later() == "two"


def test_a_file_that_is_as_it_was_is_not_read_again(file: File) -> None:
    for _ in range(5):
        assert file.later() == "one"
    assert file.read == 1


def test_a_change_that_keeps_size_and_time_is_seen(file: File) -> None:
    before = file.path.stat()
    file.write("two")
    os.utime(file.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.later() == "two"


def test_a_bad_file_changes_nothing_and_is_said_once_without_its_content(file: File) -> None:
    with structlog.testing.capture_logs() as logged:
        file.write("bad secret")
        assert [file.later(), file.later(), file.later()] == ["one"] * 3
    assert [record["event"] for record in logged] == ["file_not_reloaded"]
    assert "secret" not in str(logged)
    assert logged[0]["reason"].endswith("line 1: no good")


def test_a_file_that_is_missing_for_a_while_changes_nothing(file: File) -> None:
    with structlog.testing.capture_logs() as logged:
        file.path.unlink()
        assert [file.later(), file.later()] == ["one"] * 2
        file.write("two")
        assert file.later() == "two"
    assert [record["event"] for record in logged] == ["file_not_reloaded", "file_reloaded"]


def test_a_file_that_is_mended_is_read(file: File) -> None:
    file.write("bad")
    assert file.later() == "one"
    file.write("good")
    assert file.later() == "good"


def test_a_file_that_cannot_be_read_for_once_is_tried_again(tmp_path: Path) -> None:
    path, clock, failing = tmp_path / "file", Clock(), [False, True, False]
    path.write_text("one")

    def read() -> str:
        if failing.pop(0):
            raise OSError(24, "Too many open files")
        return path.read_text()

    live = LiveFiles([path], read, clock)
    replace(path, b"two")
    clock.now += 1
    assert live.content == "one"
    clock.now += 1
    assert live.content == "two"


def test_what_changes_while_it_is_read_is_read_once_more(tmp_path: Path) -> None:
    path, clock = tmp_path / "file", Clock()
    writes = [b"two", b"three"]
    path.write_bytes(b"one")

    def read() -> str:
        text = path.read_text()
        if text == "two":
            replace(path, writes.pop())
        return text

    live = LiveFiles([path], read, clock)
    replace(path, writes.pop(0))
    clock.now += 1
    assert live.content == "one"
    clock.now += 1
    assert live.content == "three"


def test_at_the_start_what_is_bad_is_the_callers_to_handle(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LiveFiles([tmp_path / "file"], (tmp_path / "file").read_text)


@pytest.mark.parametrize("name", ["a", "acme", "auth0|5f7c", "team@example.com", "x" * 128, "a/b"])
def test_a_plain_name_can_be_a_tenants(name: str) -> None:
    assert is_tenant(name)


@pytest.mark.parametrize("name", ["", "a b", "a#b", "a\n", "\x00", "é", "x" * 129, "a\u202eb"])
def test_other_names_cannot(name: str) -> None:
    assert not is_tenant(name)
