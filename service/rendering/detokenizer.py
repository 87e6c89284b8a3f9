"""What a model samples as text, token by token.

Each token writes bytes, whatever stands around it: so nothing is decoded twice, and a character is told
as soon as its last byte is there.
"""

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from service.errors import ModelError

Writing: TypeAlias = Callable[[str], bytes]
"""Returns what a word of the vocabulary writes."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class StreamDetokenizer:
    """Makes text of one answer."""

    def __init__(self, written: Callable[[int], bytes], ends: frozenset[int]) -> None:
        """`written` returns the bytes of a token; `ends` write nothing."""
        self._written = written
        self._ends = ends
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, ids: Sequence[int]) -> str:
        """Return the text of more tokens."""
        written = (self._written(token) for token in ids if token not in self._ends)
        return self._decoder.decode(b"".join(written))

    def end(self) -> str:
        """Return what was held back."""
        return self._decoder.decode(b"", final=True)


def writing_of(parsed: Mapping[str, Any]) -> Writing:
    """Return how the words of a `tokenizer.json` are written. Raises `ModelError` if that is unknown."""
    if writes_bytes(parsed):
        return _byte_level
    if {"ByteFallback", "Metaspace"}.intersection(_kinds(parsed.get("decoder"))):
        return _with_spaces
    raise ModelError("server_error", "The model's tokenizer writes in a way that is not supported.")


def writes_bytes(parsed: Mapping[str, Any]) -> bool:
    """Whether the words of a `tokenizer.json` are made of bytes, not of characters."""
    return "ByteLevel" in _kinds(parsed.get("decoder"))


def _kinds(decoder: Any) -> list[str]:
    match decoder:
        case {"type": "Sequence", "decoders": list(several)}:
            return [kind for one in several for kind in _kinds(one)]
        case {"type": str(kind)}:
            return [kind]
        case _:
            return []


def _bytes_by_name() -> dict[str, int]:
    """Return the bytes that characters stand for, as GPT-2 named them: those that print, themselves."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printed]
    names = {chr(byte): byte for byte in printed}
    return names | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTES = _bytes_by_name()


def _byte_level(word: str) -> bytes:
    try:
        return bytes(_BYTES[name] for name in word)
    except KeyError:  # a word that was added, and is spelled as it is
        return word.encode()


def _with_spaces(word: str) -> bytes:
    if byte := _BYTE.fullmatch(word):
        return bytes.fromhex(byte[1])
    return word.replace(_SPACE, " ").encode()
