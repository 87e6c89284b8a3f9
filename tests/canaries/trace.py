"""What a process really wrote: its system calls, told by strace.

Searching files after the fact misses what was written and deleted. Here every byte that left the process
is seen, with where it went: to its own clients, which is what it is for, or to anywhere else.
"""

import re
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

_CALLS: Final = (
    *("write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg", "sendmmsg"),
    *("open", "openat", "creat", "rename", "renameat", "renameat2", "link", "linkat"),
    *("symlink", "symlinkat", "mkdir", "mkdirat", "memfd_create", "shm_open", "connect"),
)
_UNSEEN: Final = ("sendfile", "splice", "vmsplice", "copy_file_range")
"""Calls that write without showing what."""
_NAMING: Final = re.compile(r"(open|creat|rename|link|symlink|mkdir|memfd|connect)")
_CALL: Final = re.compile(r"^(?:\d+ +)?(\w+)\((?:(-?\d+)<(.*?)>(?:\(deleted\))?, )?")
_QUOTED: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_ESCAPED: Final = re.compile(r"(?:\\x[0-9a-f]{2})+")
_ENDS: Final = re.compile(r"TCP.*?:(\d+)\]?->\[?.*:(\d+)\]")
_OPTIONS: Final = ("-f", "-D", "--seccomp-bpf", "-yy", "-xx", "-s", "4194304", "-q")
SHARED: Final = "/dev/shm/"
_LAST: Final = 16 * 1024
"""Bytes that hold the end of a process and of its threads."""


class Call(NamedTuple):
    """One system call."""

    name: str
    target: str
    """What it wrote to, as strace describes it; empty for calls that name files."""
    data: bytes

    @property
    def ends(self) -> tuple[int, int] | None:
        """The ports of a TCP connection that it wrote to, its own first."""
        found = _ENDS.search(self.target)
        return (int(found[1]), int(found[2])) if found else None


def strace(log: Path) -> Sequence[str]:
    """Return what to put in front of a command, so that its calls are logged; nothing without strace."""
    program = shutil.which("strace")
    if program is None:
        return ()
    called = ",".join(f"?{name}" for name in (*_CALLS, *_UNSEEN))
    return (program, *_OPTIONS, "-e", f"trace={called}", "-e", "signal=none", "-o", str(log), "--")


def read(lines: Iterable[str]) -> Iterator[Call]:
    """Read what strace wrote."""
    for line in lines:
        if begun := _CALL.match(line):
            data = b"".join(map(_bytes, _QUOTED.findall(line)))
            target = "" if _NAMING.match(begun[1]) else begun[3] or ""
            yield Call(begun[1], _ESCAPED.sub(_text, target), data)


class SharedTrace:
    """What a process wrote to files in shared memory, which are gone when it has ended."""

    name = "system calls: files in memory, those that are gone too (/dev/shm)"
    witness = b""

    def __init__(self, trace: "Trace") -> None:
        self._trace = trace

    def pieces(self) -> Iterator[bytes]:
        yield from self._trace.shared()

    def plant(self, text: str) -> None:
        self._trace.plant(text, f"{SHARED}planted")


class Trace:
    """What a process wrote to anything but those it is to tell, and the names it gave to files."""

    def __init__(self, log: Path, listening: Collection[int], told: Collection[int]) -> None:
        """`listening` are its own ports, `told` those of servers that it asks in its clients' words."""
        self.name = "system calls: all that left the process, but to who asked and the model"
        self.witness = b"serving"
        self._log = log
        self._calls: list[Call] = []
        self._read = 0
        self._listening = listening
        self._told = told

    def pieces(self) -> Iterator[bytes]:
        itself = self._itself()
        yield from _by_target(
            call
            for call in self._all()
            if self._leaks(call, itself) and not call.target.startswith(SHARED)
        )

    def shared(self) -> Iterator[bytes]:
        """Yield what it wrote to files in memory, those that are gone too."""
        yield from _by_target(call for call in self._all() if call.target.startswith(SHARED))

    def told(self) -> Iterator[bytes]:
        """Yield what clients were told."""
        yield from _by_target(
            call for call in self._all() if call.ends and call.ends[0] in self._listening
        )

    def unseen(self) -> Sequence[str]:
        """Return the calls that wrote without showing what."""
        return sorted({call.name for call in self._all()} & set(_UNSEEN))

    def ended(self) -> bool:
        """Tell whether the process's end has been written down: nothing follows."""
        with self._log.open("rb") as log:
            process = log.readline().split()[0]
            log.seek(max(0, self._log.stat().st_size - _LAST))
            return re.search(rb"^%s +\+\+\+ " % process, log.read(), re.MULTILINE) is not None

    def plant(self, text: str, target: str = "/planted") -> None:
        said, place = _escaped(text), _escaped(target)
        with self._log.open("a") as log:
            log.write(f'1 write(9<{place}>, "{said}", {len(text)}) = {len(text)}\n')

    def _all(self) -> Sequence[Call]:
        """Return all calls; what was read already is not read again."""
        with self._log.open(encoding="ascii", errors="replace") as log:
            log.seek(self._read)
            self._calls += read(iter(log.readline, ""))
            self._read = log.tell()
        return self._calls

    def _leaks(self, call: Call, itself: Collection[tuple[int, int]]) -> bool:
        """Tell whether nothing of what was said may be in what a call writes."""
        ends = call.ends
        if ends is None:
            return True
        return ends[0] not in self._listening and ends[1] not in self._told and ends not in itself

    def _itself(self) -> Collection[tuple[int, int]]:
        """Return the connections of which both ends are its own: an embedded model is asked by HTTP."""
        written = {call.ends for call in self._all() if call.ends}
        return {ends for ends in written if ends[::-1] in written}


def _by_target(written: Iterable[Call]) -> Iterator[bytes]:
    """Yield what went to each place, put together again: one text may be written in many calls."""
    places = defaultdict[str, list[bytes]](list)
    for call in written:
        places[call.target].append(call.data if call.target else call.data + b"\n")
    yield from (b"".join(parts) for parts in places.values())


def _escaped(text: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in text.encode())


def _text(escaped: re.Match[str]) -> str:
    return _bytes(escaped[0]).decode(errors="replace")


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))
