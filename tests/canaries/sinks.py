"""Sinks: places where something of what was said could be left behind."""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from tests.canaries.canary import Canaries, Found

_PIECE = 16 * 1024 * 1024
_OVERLAP = 64 * 1024
"""Bytes of a piece that begin the next one, so that nothing is cut in two where it cannot be found."""


class Sink(Protocol):
    """A place to be searched."""

    @property
    def name(self) -> str:
        """What it is called in reports."""

    @property
    def witness(self) -> bytes:
        """What must be in it: without it nothing was looked at. Empty where it may be empty."""

    def pieces(self) -> Iterator[bytes]:
        """Yield what is in it."""

    def plant(self, text: str) -> None:
        """Leave a text in it, as a leak would."""


class Searched(NamedTuple):
    """What came of searching a sink."""

    name: str
    bytes: int
    found: frozenset[Found]
    live: bool
    """Whether its witness was seen."""
    proved: bool = False
    """Whether a canary that was planted in it afterwards was found."""


def search(sinks: Sequence[Sink], canaries: Canaries) -> list[Searched]:
    """Look for all canaries in sinks; then plant one in each, and see whether it is found."""
    searched = [_searched(sink, canaries) for sink in sinks]
    proved = [_proved(sink, canaries) for sink in sinks]
    return [one._replace(proved=found) for one, found in zip(searched, proved, strict=True)]


def _searched(sink: Sink, canaries: Canaries) -> Searched:
    size, found, live = 0, set[Found](), not sink.witness
    for piece in sink.pieces():
        size += len(piece)
        found |= canaries.find(piece)
        live = live or sink.witness in piece
    return Searched(sink.name, size, frozenset(found), live)


def _proved(sink: Sink, canaries: Canaries) -> bool:
    """Tell whether a canary is found that is planted in a sink, in this very one."""
    place = f"planted: {sink.name}"
    sink.plant(canaries.text(place))
    return any(one.place == place for piece in sink.pieces() for one in canaries.find(piece))


class Files:
    """What stands in files; in directories, in all files below, and their names."""

    def __init__(self, name: str, paths: Sequence[Path], witness: bytes = b"") -> None:
        self.name = name
        self.witness = witness
        self._paths = paths

    def pieces(self) -> Iterator[bytes]:
        for path in self._paths:
            yield from _below(path)

    def plant(self, text: str) -> None:
        [path, *_] = self._paths
        planted = path / "planted" if path.is_dir() else path
        with planted.open("ab") as file:
            file.write(text.encode())


class Changed:
    """Files of a directory that others use too: those that were written since this was made."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.witness = b""
        self._folder = folder
        self._before = dict(self._stamps())
        self._planted = folder / f"turnwire-{secrets.token_hex(8)}"

    def pieces(self) -> Iterator[bytes]:
        for path, stamp in self._stamps():
            if self._before.get(path) != stamp:
                yield from _below(path)
        self._planted.unlink(missing_ok=True)

    def plant(self, text: str) -> None:
        self._planted.write_text(text)

    def _stamps(self) -> Iterator[tuple[Path, tuple[int, int]]]:
        for path in self._folder.rglob("*"):
            try:
                found = path.lstat()
            except FileNotFoundError:  # it was another's, and is gone
                continue
            yield path, (found.st_ino, found.st_mtime_ns)


class Kept:
    """What was heard, kept in memory."""

    def __init__(self, name: str, witness: bytes = b"") -> None:
        self.name = name
        self.witness = witness
        self._heard: list[bytes] = []

    def keep(self, *heard: bytes | str) -> None:
        """Add something that was heard."""
        self._heard += [one.encode() if isinstance(one, str) else one for one in heard]

    def pieces(self) -> Iterator[bytes]:
        yield b"\n".join(self._heard)

    def plant(self, text: str) -> None:
        self.keep(text)


def windows(read: Iterable[bytes]) -> Iterator[bytes]:
    """Yield what was read in pieces so that each begins with the end of the one before."""
    rest = b""
    for piece in read:
        yield rest + piece
        rest = piece[-_OVERLAP:]


def _below(path: Path) -> Iterator[bytes]:
    """Yield the content of a file, or the names and contents of those in a directory."""
    if path.is_dir():
        for one in path.rglob("*"):
            yield str(one.relative_to(path)).encode()
            if one.is_file():
                yield from _content(one)
    elif path.is_file():
        yield path.name.encode()
        yield from _content(path)


def _content(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from windows(iter(lambda: file.read(_PIECE), b""))
    except FileNotFoundError:  # it was deleted as we looked
        return
