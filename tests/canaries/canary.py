"""The canaries of a run, and every form in which one would be found again."""

import base64
import secrets
import string
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

_ALPHABET = string.ascii_letters + string.digits
_MARK = 14
"""Characters that all canaries of a run begin with: 83 random bits."""
_SERIAL = 4
_LONGEST = 12 * (_MARK + _SERIAL)
"""Bytes of a canary in its longest form, and what base64 puts around it."""
_UNPACKED = 4 * 1024 * 1024
_STREAMS = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda", b"\x1f\x8b\x08")
"""How compressed bytes begin: zlib's levels, and gzip."""
_EITHER = 32
"""`zlib` finds out by itself whether it is zlib or gzip, with this added to the window's bits."""

Encode = Callable[[str], bytes]

FORMS: dict[str, Encode] = {
    "plain": str.encode,
    "lower case": lambda text: text.lower().encode(),
    "upper case": lambda text: text.upper().encode(),
    "hex": lambda text: text.encode().hex().encode(),
    "UTF-16": lambda text: text.encode("utf-16-le"),
    "UTF-16, big-endian": lambda text: text.encode("utf-16-be"),
    "UTF-32, or ids of bytes": lambda text: text.encode("utf-32-le"),
    "URL-encoded": lambda text: b"".join(b"%%%02X" % byte for byte in text.encode()),
    "JSON-escaped": lambda text: b"".join(b"\\u%04x" % ord(letter) for letter in text),
    "hex-escaped": lambda text: b"".join(b"\\x%02x" % byte for byte in text.encode()),
    "reversed": lambda text: text[::-1].encode(),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64, one byte on": lambda text: base64.b64encode(b"\0" + text.encode()),
    "base64, two bytes on": lambda text: base64.b64encode(b"\0\0" + text.encode()),
    "compressed": lambda text: zlib.compress(text.encode()),
}
_FOLDED = (
    *("plain", "hex", "UTF-16", "UTF-16, big-endian", "UTF-32, or ids of bytes"),
    *("URL-encoded", "JSON-escaped", "hex-escaped", "reversed"),
)
"""Forms that are looked for whatever the case of their letters."""


class Found(NamedTuple):
    """A canary where none should be."""

    place: str
    """Where a client said it."""
    form: str


class Canaries:
    """Makes canaries, remembers where each was said, and finds them."""

    def __init__(self) -> None:
        self._mark = "".join(secrets.choice(_ALPHABET) for _ in range(_MARK))
        self._places: list[str] = []
        self._folded = {form: FORMS[form](self._mark).lower() for form in _FOLDED}
        self._exact = {f"base64 at {skip}": _base64(self._mark, skip) for skip in range(3)}

    def __len__(self) -> int:
        return len(self._places)

    def word(self, place: str) -> str:
        """Return a new canary of letters and digits, to be said there."""
        self._places.append(place)
        return f"{self._mark}{len(self._places) - 1:0{_SERIAL}}"

    def text(self, place: str) -> str:
        """Return a new canary amid what encodings escape."""
        return f'"{self.word(place)}" & <ü> \\ /?=%\n✓'

    def find(self, data: bytes) -> set[Found]:
        """Return the canaries in some bytes, as they are and unpacked."""
        found = self._bare(data)
        for unpacked in _unpacked(data):
            found |= {Found(one.place, f"compressed, {one.form}") for one in self._bare(unpacked)}
        return found

    def _bare(self, data: bytes) -> set[Found]:
        folded = data.lower()
        found = {
            Found(self._place(folded, at, form), form)
            for form, mark in self._folded.items()
            for at in _places(folded, mark)
        }
        spelled = data.translate(_URL_SAFE)
        return found | {
            Found("it is not told", form)
            for form, mark in self._exact.items()
            if mark in data or mark in spelled
        }

    def _place(self, data: bytes, at: int, form: str) -> str:
        """Tell which canary begins there; of one that was cut short it cannot be told."""
        around = data[max(0, at - _LONGEST) : at + _LONGEST]
        for serial, place in enumerate(self._places):
            if FORMS[form](f"{self._mark}{serial:0{_SERIAL}}").lower() in around:
                return place
        return "cut short"


_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def _base64(mark: str, skip: int) -> bytes:
    """Return what base64 makes of a mark, whatever stands around it, `skip` bytes into three."""
    whole = base64.b64encode(b"\0" * skip + mark.encode())
    return whole[-(-skip * 8 // 6) : (skip + len(mark)) * 8 // 6]


def _places(data: bytes, mark: bytes) -> Iterator[int]:
    at = data.find(mark)
    while at >= 0:
        yield at
        at = data.find(mark, at + 1)


def _unpacked(data: bytes) -> Iterator[bytes]:
    """Yield what compressed streams in some bytes hold, as far as they can be read."""
    for start in _STREAMS:
        for at in _places(data, start):
            unpacking = zlib.decompressobj(_EITHER + zlib.MAX_WBITS)
            try:
                yield unpacking.decompress(data[at : at + _UNPACKED], _UNPACKED)
            except zlib.error:
                continue
