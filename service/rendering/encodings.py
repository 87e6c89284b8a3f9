"""Token ids as they stand in requests: kept that way, so that a prompt is joined and never rewritten."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import orjson

from service.conversation import Rendered


class Encoding(Protocol):
    """How a model server is sent ids. Bytes of parts, joined, are the bytes of the whole."""

    name: str

    def encode(self, ids: Sequence[int]) -> bytes:
        """Return ids as they are sent."""

    def decode(self, data: bytes) -> list[int]:
        """Return the ids that were encoded."""

    def join(self, parts: Iterable[bytes]) -> bytes:
        """Return the ids of all parts as they are sent."""


class Decimal:
    """For JSON: decimal numbers with commas between them."""

    name = "decimal"

    def encode(self, ids: Sequence[int]) -> bytes:
        """Return ids as the inside of a JSON array."""
        return orjson.dumps(ids)[1:-1]

    def decode(self, data: bytes) -> list[int]:
        """Return the ids of the inside of a JSON array."""
        return [int(token) for token in data.split(b",")] if data else []

    def join(self, parts: Iterable[bytes]) -> bytes:
        """Return the inside of one JSON array."""
        return b",".join(part for part in parts if part)


def joined(encoding: Encoding, parts: Sequence[Rendered]) -> Rendered:
    """Return parts of a conversation as one."""
    return Rendered(
        encoding.join(part.data for part in parts),
        sum(part.tokens for part in parts),
        any(part.asks for part in parts),
    )
