"""The operator's files that decide who is let in: read again when they change, while the service runs.

Whoever asks what they say looks whether they have changed, at most once a second; so nothing runs
beside. What cannot be read changes nothing: a key file that is half written must lock nobody out.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

import structlog

T = TypeVar("T")
Revision: TypeAlias = tuple[tuple[int, ...], ...]

_PACE: Final = 1.0
"""Seconds between two looks."""

log = structlog.get_logger(__name__)


class BadFile(Exception):
    """A file does not say what it should. Names the line, never what stands there."""


class LiveFiles(Generic[T]):
    """What files say, as of a moment ago.

    `read` reads all of them, and raises `OSError` or `BadFile`; the first time that is the caller's
    to handle, later it is logged, once for each state of the files. `clock` is monotonic, in seconds.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        read: Callable[[], T],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._paths = paths
        self._read = read
        self._clock = clock
        self._due = clock() + _PACE
        self._revision = self._revise()
        self._complained: Revision | None = None
        self._content = read()

    @property
    def content(self) -> T:
        """What the files say."""
        if self._clock() >= self._due:
            self._due = self._clock() + _PACE
            self._look()
        return self._content

    def _look(self) -> None:
        revision: Revision = ()
        try:
            revision = self._revise()
            if revision != self._revision:
                self._take(revision, self._read())
        except (OSError, BadFile) as error:
            self._complain(revision, error)

    def _take(self, revision: Revision, content: T) -> None:
        """Go by what was read, unless the files changed meanwhile: the next look finds that out."""
        if self._revise() == revision:
            self._revision, self._content, self._complained = revision, content, None
            log.info("file_reloaded", file=str(self._paths[0]))

    def _complain(self, revision: Revision, error: OSError | BadFile) -> None:
        if revision != self._complained:
            self._complained = revision
            reason = str(error) if isinstance(error, BadFile) else type(error).__name__
            log.error("file_not_reloaded", file=str(self._paths[0]), reason=reason)

    def _revise(self) -> Revision:
        """Return what changes with a file, also where it is replaced, or keeps its time."""
        found = [path.stat() for path in self._paths]
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in found)


def entries(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the lines that say something: number and words. Raises `OSError`."""
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if (words := line.split()) and not words[0].startswith("#"):
            yield number, words
