"""How much memory the process has, and how much it may have: what the kernel will go by.

The limit is the one that is nearest to be reached: those of the control groups that the process is
in, of version 2 or 1, its own and those around it, that of its address space, the machine's memory.
Where the system tells nothing of this, nothing is said.
"""

import os
import resource
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

_UNLIMITED = 1 << 60
"""Version 1 says a number near this when it means that there is no limit."""
_PAGE = os.sysconf("SC_PAGE_SIZE")
_LONGEST = 8192
"""Bytes that are read of one of the kernel's files."""
_WORTH_A_LOOK = 0.5
"""From this part of a limit on it is asked what of that could be taken back: asking is not cheap."""


class Usage(NamedTuple):
    """Bytes: what the process has in memory, what counts against the limit, and the limit."""

    resident: int
    used: int
    limit: int

    @property
    def part(self) -> float:
        """How much of the limit is used: 1 is all."""
        return self.used / self.limit


class Process(Protocol):
    """Knows about the memory of a process."""

    def usage(self) -> Usage | None:
        """Look now; None where there is no telling. Called about once a second: must be quick."""


class Unknown:
    """A system that tells nothing."""

    def usage(self) -> Usage | None:
        """There is no telling."""
        return None


class Files(NamedTuple):
    """How a version of control groups calls what is asked for."""

    limits: tuple[str, ...]
    current: str
    reclaimable: bytes
    """Of `memory.stat`: read files that nobody needs now, which go before anything is killed."""


VERSION_2 = Files(("memory.max", "memory.high"), "memory.current", b"inactive_file")
VERSION_1 = Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", b"total_inactive_file")


@dataclass(frozen=True, slots=True)
class Group:
    """A control group that can have a limit. `path` is where its files are, with a slash at the end."""

    path: str
    files: Files

    def read(self) -> tuple[int, int] | None:
        """Return what is used, and the limit; None if there is none."""
        limit = min(_number(self.path + name, _UNLIMITED) for name in self.files.limits)
        if not 0 < limit < _UNLIMITED:
            return None
        used = _number(self.path + self.files.current, 0)
        if used >= _WORTH_A_LOOK * limit:
            used = max(used - self._reclaimable(), 0)
        return used, limit

    def _reclaimable(self) -> int:
        words = _contents(f"{self.path}memory.stat").split()
        name = self.files.reclaimable
        return int(words[words.index(name) + 1]) if name in words else 0


class LinuxProcess:
    """This process, as Linux tells it."""

    def __init__(self, groups: Iterable[Group]) -> None:
        """Raises `ValueError` where there is no telling."""
        self._groups = tuple(groups)
        self._peak = 0
        self._reserved = 0
        self._pages()
        self._machine = os.sysconf("SC_PHYS_PAGES") * _PAGE

    def usage(self) -> Usage:
        """Look now."""
        resident = self._pages()
        used, limit = max(self._bounds(resident), key=lambda bound: bound[0] / bound[1])
        return Usage(resident, used, limit)

    def _bounds(self, resident: int) -> Iterator[tuple[int, int]]:
        """Tell what is used of every limit there is, and the limit."""
        yield resident, self._machine
        for group in self._groups:
            if bound := group.read():
                yield bound
        space, _ = resource.getrlimit(resource.RLIMIT_AS)
        if space != resource.RLIM_INFINITY:
            yield resident + self._reserved, space

    def _pages(self) -> int:
        """Return the bytes in memory.

        What of the address space is not there when more is than ever was only reserved; later it may
        also have been given back, and can be used again.
        """
        size, pages = _contents("/proc/self/statm").split()[:2]
        resident = int(pages) * _PAGE
        if resident >= self._peak:
            self._peak, self._reserved = resident, int(size) * _PAGE - resident
        return resident


def this_process() -> Process:
    """Return what tells of this process; where the system does not, nothing does."""
    try:
        return LinuxProcess(groups(Path("/proc/self")))
    except (OSError, ValueError):
        return Unknown()


def groups(process: Path) -> list[Group]:
    """Find the control groups of a process that can limit its memory.

    Raises `OSError` and `ValueError` where they are not told.
    """
    mounts = (process / "mountinfo").read_text().splitlines()
    found: list[Group] = []
    for line in (process / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            found += _around(_mounts(mounts, "cgroup2", ""), path, VERSION_2)
        elif "memory" in controllers.split(","):
            found += _around(_mounts(mounts, "cgroup", "memory"), path, VERSION_1)
    return found


def _mounts(lines: Iterable[str], kind: str, option: str) -> Iterator[tuple[Path, Path]]:
    """Tell where groups of a kind can be seen: the outermost one that can, and where it is mounted."""
    for line in lines:
        place, _, system = line.partition(" - ")
        fields, (mounted, _, options) = place.split(), system.split(maxsplit=2)
        if mounted == kind and (not option or option in options.split(",")):
            yield Path(fields[3]), Path(fields[4])


def _around(mounts: Iterable[tuple[Path, Path]], path: str, files: Files) -> Iterator[Group]:
    """Tell the group of a path, and those around it, as far as they can be seen and have a limit."""
    for root, point in mounts:
        inner = Path(path)
        inside = inner.relative_to(root) if inner.is_relative_to(root) else Path()
        for part in (inside, *inside.parents) if inside.parts else (inside,):
            if (point / part / files.current).exists():
                yield Group(f"{point / part}/", files)


def _number(path: str, otherwise: int) -> int:
    """Read a number: "max", and what is not there, is `otherwise`."""
    contents = _contents(path).strip()
    return int(contents) if contents.isdigit() else otherwise


def _contents(path: str) -> bytes:
    """Read a file of the kernel's; nothing if it is not there."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(file, _LONGEST)
    finally:
        os.close(file)
