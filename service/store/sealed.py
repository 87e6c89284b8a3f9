"""Closes what is stored, so that only the operator's keys open it, and only where it belongs.

A sealed blob is a version, the id of the operator's key, a nonce, and the AES-256-GCM ciphertext of the
compressed plaintext. Its key is derived for its tenant. Where it stands is authenticated with it: a blob
that was edited, or moved to another record, tree, tenant or purpose, does not open. What cannot be told
is that a store holds an older state of the same place, or less than it was given.
"""

import functools
import hashlib
import secrets
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from service.limits import MIB
from service.sealing import Unsealed, read_keys

Purpose = Literal["path", "response", "conversation"]

_VERSION = b"\x01"
_KEY, _ID, _NONCE, _LENGTH = 32, 8, 12, 4  # bytes
_KEY_AT = len(_VERSION)
_NONCE_AT = _KEY_AT + _ID
_HEAD = _NONCE_AT + _NONCE
_FAST = 1  # zlib's level
_CIPHERS = 4096
"""Tenants' keys that are kept derived."""
_MOST_BYTES = 512 * MIB


class Place(NamedTuple):
    """Where a blob belongs."""

    tenant: str
    purpose: Purpose
    tree: str
    """Empty for what belongs to none."""
    id: str
    before: str
    """What it builds on: a record's parent, the number of a conversation's revision."""


class Sealer:
    """Seals with its first key and opens with any: a new key is put in front of the old ones.

    Nonces are random: a key must be replaced before it has sealed 2**32 blobs of one tenant.
    """

    def __init__(self, keys: Sequence[bytes], most_bytes: int = _MOST_BYTES) -> None:
        """Take keys of 32 bytes. `most_bytes` bounds what is sealed, and what a blob may unpack to."""
        if not keys or any(len(key) != _KEY for key in keys):
            raise ValueError(f"sealing takes one or more keys, each of {_KEY} bytes")
        self._keys = {_key_id(key): key for key in keys}
        self._first = _key_id(keys[0])
        self._most_bytes = most_bytes
        self._cipher = functools.lru_cache(_CIPHERS)(self._derived)

    @classmethod
    def read(cls, path: Path, most_bytes: int = _MOST_BYTES) -> Self:
        """Read the operator's file of keys. Raises what `service.sealing.read_keys` raises."""
        return cls(read_keys(path), most_bytes)

    def seal(self, place: Place, plaintext: bytes) -> bytes:
        """Seal. Raises `ValueError` for more bytes than could be opened again."""
        if len(plaintext) > self._most_bytes:
            raise ValueError(f"at most {self._most_bytes} bytes can be sealed")
        nonce = secrets.token_bytes(_NONCE)
        cipher = self._cipher(self._first, place.tenant)
        packed = zlib.compress(plaintext, _FAST)
        return b"".join(
            (_VERSION, self._first, nonce, cipher.encrypt(nonce, packed, _bound(place)))
        )

    def open(self, place: Place, sealed: bytes) -> bytes:
        """Return the plaintext. Raises `Unsealed`."""
        version, key_id = sealed[:_KEY_AT], sealed[_KEY_AT:_NONCE_AT]
        if version != _VERSION or key_id not in self._keys:
            raise Unsealed
        try:
            cipher = self._cipher(key_id, place.tenant)
            packed = cipher.decrypt(sealed[_NONCE_AT:_HEAD], sealed[_HEAD:], _bound(place))
        except (InvalidTag, ValueError):  # the latter for one that was cut short
            raise Unsealed from None
        return self._unpacked(packed)

    def _unpacked(self, packed: bytes) -> bytes:
        unpacking = zlib.decompressobj()
        most = self._most_bytes + 1  # one more: so that it sees the end
        plaintext = unpacking.decompress(packed, most)
        if not unpacking.eof:
            raise Unsealed
        return plaintext

    def _derived(self, key_id: bytes, tenant: str) -> AESGCM:
        """Return a tenant's own cipher: no tenant's nonces use up another's key."""
        derivation = HKDF(SHA256(), _KEY, salt=None, info=b"turnwire store\0" + tenant.encode())
        return AESGCM(derivation.derive(self._keys[key_id]))


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"turnwire store key" + key).digest()[:_ID]


def _bound(place: Place) -> bytes:
    """Return what is authenticated: each part with its length, so that no two places read the same."""
    parts = [_VERSION, *(part.encode() for part in place)]
    return b"".join(len(part).to_bytes(_LENGTH) + part for part in parts)
