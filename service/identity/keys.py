"""API keys: who is calling.

A key is `tw_<id>_<secret>`. The file holds one line a key, `<id> <tenant> <sha256 of the secret>`:
secrets are 256 random bits, so a plain hash protects them at rest. A key ends with its line.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.errors import Unauthenticated
from service.identity import Credentials, Identity, is_tenant
from service.identity.live_files import BadFile, LiveFiles, entries

KIND: Final = "key"
PREFIX: Final = "tw_"
"""What every key of ours begins with."""
_DIGEST: Final = re.compile("[0-9a-f]{64}")
_MARK: Final = 8
"""Characters of a digest that tell two secrets of one id apart."""


@dataclass(frozen=True, slots=True)
class _Key:
    tenant: str
    digest: str


_NOBODYS: Final = _Key("", hashlib.sha256(secrets.token_bytes(32)).hexdigest())
"""What an unknown id is compared with: nobody has its secret."""


class KeyFile:
    """The keys of a file, as it is now."""

    anonymous = False

    def __init__(self, file: LiveFiles[Mapping[str, _Key]]) -> None:
        self._file = file

    @classmethod
    def read(cls, path: Path, clock: Callable[[], float] = time.monotonic) -> "KeyFile":
        """Read a key file. Raises `OSError`, or `BadFile`."""
        return cls(LiveFiles([path], lambda: _read(path), clock))

    def identify(self, credentials: Credentials) -> Identity:
        """Return the key's tenant. Unknown ids and wrong secrets take the same steps."""
        shown = credentials.bearer
        key_id, _, secret = shown.removeprefix(PREFIX).partition("_")
        key = self._file.content.get(key_id, _NOBODYS)
        matches = hmac.compare_digest(_digest(secret), key.digest)
        if not matches or not shown.startswith(PREFIX):
            raise Unauthenticated
        return Identity(key.tenant, _called(key_id, key))

    def holds(self, identity: Identity) -> bool:
        """Tell whether the key is still in the file, with its secret and for the same tenant."""
        key_id = identity.credential.removeprefix(f"{KIND}:").rpartition(":")[0]
        key = self._file.content.get(key_id)
        return (
            key is not None
            and key.tenant == identity.tenant
            and _called(key_id, key) == identity.credential
        )


def new_key(tenant: str) -> tuple[str, str]:
    """Return a new key for a tenant and the line for the key file. The key is not recoverable."""
    if not is_tenant(tenant):
        raise ValueError("a tenant's name is up to 128 visible ASCII characters without '#'")
    key_id, secret = secrets.token_hex(4), secrets.token_hex(32)
    return f"{PREFIX}{key_id}_{secret}", f"{key_id} {tenant} {_digest(secret)}"


def _read(path: Path) -> dict[str, _Key]:
    keys: dict[str, _Key] = {}
    for number, words in entries(path):
        if not _is_key(words):
            raise BadFile(f"{path}, line {number}: expected '<id> <tenant> <sha256>'")
        if words[0] in keys:
            raise BadFile(f"{path}, line {number}: this id is there already")
        keys[words[0]] = _Key(tenant=words[1], digest=words[2])
    return keys


def _is_key(words: list[str]) -> bool:
    """Tell whether words are a key, with or without a comment behind it."""
    commented = len(words) > 3 and words[3].startswith("#")
    if len(words) != 3 and not commented:
        return False
    return is_tenant(words[1]) and _DIGEST.fullmatch(words[2]) is not None


def _called(key_id: str, key: _Key) -> str:
    """Return what a key is called. It is another one when its secret is."""
    return f"{KIND}:{key_id}:{key.digest[:_MARK]}"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
