"""What only this server and its replicas can read, given to clients to keep.

A sealed text is `v1.` and, in base64url, the id of a key, a nonce, the plaintext's length, and the
AES-256-GCM ciphertext of the compressed plaintext. Purpose, tenant and length are authenticated with it:
it opens for no other, and to no other length. The client that it is for knows the length anyway.
"""

import base64
import hashlib
import secrets
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from service.limits import MIB

MARK = "v1."
"""What every sealed text begins with."""

_KEY, _ID, _NONCE, _LENGTH, _TAG = 32, 8, 12, 4, 16  # bytes
_HEAD = _ID + _NONCE + _LENGTH
_HEAD_CHARACTERS = _HEAD * 4 // 3  # in base64, without a rest
_SEPARATOR = b"\0"  # no purpose contains one
_FAST = 1  # zlib's level: sealing must not hold up the event loop
_MOST_BYTES = 64 * MIB


class Unsealed(Exception):
    """A text cannot be opened here. Says the same whatever the reason, and nothing of the text."""

    def __init__(self) -> None:
        super().__init__(
            "The sealed text cannot be opened: it was changed, it was sealed for another tenant "
            "or purpose, or its key is not known here."
        )


class Seal:
    """Seals with its first key and opens with any: a new key is put in front of the old ones.

    Nonces are random, so that a key must be replaced before it has sealed 2**32 texts.
    """

    def __init__(self, keys: Sequence[bytes], most_bytes: int = _MOST_BYTES) -> None:
        """Take keys of 32 bytes. `most_bytes` bounds what is sealed, and what a text may unpack to."""
        if not keys or any(len(key) != _KEY for key in keys):
            raise ValueError(f"sealing takes one or more keys, each of {_KEY} bytes")
        self._first = _key_id(keys[0])
        self._ciphers = {_key_id(key): AESGCM(key) for key in keys}
        self._most_bytes = most_bytes

    @classmethod
    def ephemeral(cls, most_bytes: int = _MOST_BYTES) -> Self:
        """Return a seal with a key of its own: what it seals cannot be opened after this process."""
        return cls([secrets.token_bytes(_KEY)], most_bytes)

    @classmethod
    def read(cls, path: Path, most_bytes: int = _MOST_BYTES) -> Self:
        """Read a file of keys, as `read_keys` does."""
        return cls(read_keys(path), most_bytes)

    def seal(self, tenant: str, purpose: str, plaintext: bytes) -> str:
        """Seal. Raises `ValueError` for more bytes than could be opened again."""
        if len(plaintext) > self._most_bytes:
            raise ValueError(f"at most {self._most_bytes} bytes can be sealed")
        nonce = secrets.token_bytes(_NONCE)
        length = len(plaintext).to_bytes(_LENGTH)
        packed = zlib.compress(plaintext, _FAST)
        bound_to = _bound_to(tenant, purpose, length)
        sealed = self._ciphers[self._first].encrypt(nonce, packed, bound_to)
        return _encoded(self._first + nonce + length + sealed)

    def open(self, tenant: str, purpose: str, text: str) -> bytes:
        """Return the plaintext. Raises `Unsealed`."""
        data = _decoded(text)
        key_id, nonce, length = data[:_ID], data[_ID : _ID + _NONCE], data[_ID + _NONCE : _HEAD]
        sealed = data[_HEAD:]
        if key_id not in self._ciphers or len(sealed) < _TAG:
            raise Unsealed
        if int.from_bytes(length) > self._most_bytes:
            raise Unsealed
        try:
            bound_to = _bound_to(tenant, purpose, length)
            packed = self._ciphers[key_id].decrypt(nonce, sealed, bound_to)
        except InvalidTag:
            raise Unsealed from None
        return zlib.decompress(packed)


def read_keys(path: Path) -> Sequence[bytes]:
    """Read a file of keys, newest first: 32 bytes in base64 a line, `#` begins a comment.

    Raises `OSError`, or `ValueError` that names the line's number, never its content.
    """
    keys = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if encoded := line.partition("#")[0].strip():
            keys.append(_key(encoded, f"{path}, line {number}"))
    if not keys:
        raise ValueError(f"{path} has no key: expected {_KEY} random bytes in base64")
    return keys


def plain_length(text: str) -> int:
    """Return how many bytes a text opens to, by its own account: if that is not true it does not open."""
    if not text.startswith(MARK):
        return 0
    try:
        head = base64.urlsafe_b64decode(text[len(MARK) : len(MARK) + _HEAD_CHARACTERS])
    except ValueError:
        return 0
    return int.from_bytes(head[_ID + _NONCE :])


def _key_id(key: bytes) -> bytes:
    return hashlib.sha256(b"turnwire sealing key" + key).digest()[:_ID]


def _key(encoded: str, place: str) -> bytes:
    try:
        key = base64.b64decode(encoded, validate=True)
    except ValueError:
        key = b""
    if len(key) != _KEY:
        raise ValueError(f"{place} is no key: expected {_KEY} random bytes in base64")
    return key


def _bound_to(tenant: str, purpose: str, length: bytes) -> bytes:
    return _SEPARATOR.join([MARK.encode() + length, purpose.encode(), tenant.encode()])


def _encoded(data: bytes) -> str:
    return MARK + base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    """Read what `_encoded` wrote, to the letter: base64 has several spellings of the same bytes."""
    if not text.startswith(MARK):
        raise Unsealed
    body = text.removeprefix(MARK)
    try:
        data = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
    except ValueError:
        raise Unsealed from None
    if _encoded(data) != text:
        raise Unsealed
    return data
