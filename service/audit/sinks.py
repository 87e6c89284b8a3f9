"""Where a journal's entries end up, on this machine: a file, or standard output."""

import errno
import fcntl
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from service.audit import Entry
from service.audit.lines import line

_MODE = 0o600  # who used the service, and when, is nobody else's business
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class Sink(Protocol):
    """Takes entries for good. Called from a thread, by one at a time."""

    def write(self, entries: Sequence[Entry]) -> None:
        """Write all of them, or raise `OSError`: then none counts as written, and they come again."""

    def close(self) -> None:
        """Let go of what was opened. Nothing is being written."""


class JsonLines:
    """A file, one line an entry, synchronised to the disk with each write. It is this process's alone.

    A file that was moved away is followed by a new one of its name.
    """

    def __init__(self, path: Path) -> None:
        """Open a file. Raises `OSError`, also where another process writes it."""
        self._path = path
        self._file = _opened(path)

    def write(self, entries: Sequence[Entry]) -> None:
        """Append all of them, or nothing."""
        if self._moved():
            self._reopen()
        before = os.fstat(self._file).st_size
        try:
            _write(self._file, b"".join(map(line, entries)))
            _synchronise(self._file)
        except OSError:
            if os.fstat(self._file).st_size > before:
                os.ftruncate(self._file, before)
            raise

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _moved(self) -> bool:
        """Whether the file's name is another's by now, or nobody's."""
        try:
            named = self._path.stat()
        except FileNotFoundError:
            return True
        return not os.path.samestat(named, os.fstat(self._file))

    def _reopen(self) -> None:
        old, self._file = self._file, _opened(self._path)
        os.close(old)


class StandardOutput:
    """Standard output, one line an entry, for whoever gathers what processes say."""

    def __init__(self) -> None:
        self._file = sys.stdout.fileno()

    def write(self, entries: Sequence[Entry]) -> None:
        """Write all of them; waits for whoever reads."""
        _write(self._file, b"".join(map(line, entries)))

    def close(self) -> None:
        """Leave it open: it is not the journal's."""


def _opened(path: Path) -> int:
    """Open a file to append to."""
    file = os.open(path, _FLAGS, _MODE)
    try:
        if stat.S_ISREG(os.fstat(file).st_mode):
            _take_over(file)
    except OSError:
        os.close(file)
        raise
    return file


def _take_over(file: int) -> None:
    """Keep other processes out; go on below what one left that was killed in the middle of a line."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OSError(error.errno, "another process writes this journal") from None
    size = os.fstat(file).st_size
    if size and os.pread(file, 1, size - 1) != b"\n":
        _write(file, b"\n")


def _write(file: int, content: bytes) -> None:
    """Write all of it: a disk, a limit or a pipe may take a part at a time."""
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]


def _synchronise(file: int) -> None:
    """Have it reach the disk, where there is one."""
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
