"""API keys: who is calling.

A key is `tw_<id>_<secret>`. The file holds one line a key, `<id> <tenant> <sha256 of the secret>`:
secrets are 256 random bits, so a plain hash protects them at rest. Without a file everyone is the
one anonymous tenant, and the server listens on loopback only.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from service.errors import Unauthenticated
from service.identity import Credentials, Identity

_NOBODY = hashlib.sha256(secrets.token_bytes(32)).hexdigest()


class BadKeyFile(Exception):
    """A line of a key file is none. Names its number, never its content."""


@dataclass(frozen=True, slots=True)
class _Key:
    tenant: str
    digest: str


class KeyFile:
    """The keys of a file, read once."""

    anonymous = False

    def __init__(self, keys: Mapping[str, _Key]) -> None:
        self._keys = keys

    @classmethod
    def read(cls, path: Path) -> "KeyFile":
        """Read a key file. Raises `OSError`, or `BadKeyFile`."""
        keys: dict[str, _Key] = {}
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if not (fields := line.split("#")[0].split()):
                continue
            if len(fields) != 3 or len(fields[2]) != 64:
                raise BadKeyFile(f"{path}, line {number}: expected '<id> <tenant> <sha256>'")
            keys[fields[0]] = _Key(tenant=fields[1], digest=fields[2])
        return cls(keys)

    def identify(self, credentials: Credentials) -> Identity:
        """Return the key's tenant. Unknown ids and wrong secrets take the same steps."""
        scheme, _, token = (credentials.authorization or "").partition(" ")
        prefix, _, rest = token.strip().partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._keys.get(key_id)
        matches = hmac.compare_digest(_digest(secret), key.digest if key else _NOBODY)
        if key is None or not matches or scheme.lower() != "bearer" or prefix != "tw":
            raise Unauthenticated
        return Identity(key.tenant, key_id)

    def holds(self, identity: Identity) -> bool:
        """Tell whether the key is still in the file, for the same tenant."""
        key = self._keys.get(identity.credential)
        return key is not None and key.tenant == identity.tenant


def new_key(tenant: str) -> tuple[str, str]:
    """Return a new key for a tenant and the line for the key file. The key is not recoverable."""
    if not tenant or tenant.split() != [tenant] or "#" in tenant:
        raise ValueError("a tenant's name has no spaces and no '#'")
    key_id, secret = secrets.token_hex(4), secrets.token_hex(32)
    return f"tw_{key_id}_{secret}", f"{key_id} {tenant} {_digest(secret)}"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).hexdigest()
