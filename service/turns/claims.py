"""Creates that are sent again because nobody heard what became of them: the first one's response answers.

A client that may have to send a create again gives it an idempotency key. The key's cell names the
response that was begun for it, and what was asked: asking something else under the same key is refused.
"""

import hashlib
from typing import NamedTuple

from service.errors import Conflict, Refusal
from service.sealing import Seal, Unsealed
from service.store import Cell, CellName, Cells
from turnwire.v1 import responses_pb2

_KIND = "claim"
_TTL = 86_400.0  # seconds
_LONGEST = 255
_DIGEST = 32  # bytes


class Claim(NamedTuple):
    """What is known of a key: `response_id` is empty for one that is new."""

    revision: int
    response_id: str


class Claims:
    """The keys of all tenants."""

    def __init__(self, cells: Cells, seal: Seal) -> None:
        self._cells = cells
        self._seal = seal

    async def find(self, tenant: str, create: responses_pb2.CreateResponse) -> Claim:
        """Return what is known of a create's key.

        Raises `Refusal` for what is no key, `Conflict` for one that something else was asked under, and
        `StoreUnavailable`.
        """
        _check(create.idempotency_key)
        cell = await self._cells.read(_name(tenant, create))
        if cell is None:
            return Claim(0, "")
        try:
            known = self._seal.open(tenant, _KIND, cell.data.decode())
        except (Unsealed, ValueError):
            return Claim(cell.revision, "")
        if known[:_DIGEST] != _digest(create):
            raise Conflict(
                "idempotency_key_reused",
                "Something else was asked under this idempotency key. Use a new key for it.",
                "idempotency_key",
            )
        return Claim(cell.revision, known[_DIGEST:].decode())

    async def take(self, tenant: str, create: responses_pb2.CreateResponse, claim: Claim) -> bool:
        """Name the response that is made for a key; tell whether nobody else has meanwhile."""
        known = _digest(create) + claim.response_id.encode()
        cell = Cell(claim.revision, self._seal.seal(tenant, _KIND, known).encode())
        return await self._cells.write(_name(tenant, create), cell, _TTL)


def _check(key: str) -> None:
    if not 0 < len(key) <= _LONGEST:
        message = f"'idempotency_key' must have 1 to {_LONGEST} characters."
        raise Refusal("invalid_value", message, "idempotency_key")


def _name(tenant: str, create: responses_pb2.CreateResponse) -> CellName:
    return CellName(tenant, _KIND, hashlib.sha256(create.idempotency_key.encode()).hexdigest())


def _digest(create: responses_pb2.CreateResponse) -> bytes:
    """Return what tells one create from another, but for what clients say of themselves and of the wire."""
    asked = responses_pb2.CreateResponse()
    asked.CopyFrom(create)
    for name in ("idempotency_key", "client_metadata", "stream", "stream_options_json"):
        asked.ClearField(name)
    return hashlib.sha256(asked.SerializeToString(deterministic=True)).digest()
