"""Clients' certificates: which tenant their names stand for.

A name is `URI:spiffe://domain/path` or `DNS:host`, of a certificate that TLS has verified already.
The file holds one line a name, `<name> <tenant>`; a name must be there as it is in the certificate.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from service.errors import Unauthenticated
from service.identity import Credentials, Identity, is_tenant
from service.identity.live_files import BadFile, LiveFiles, entries

KIND: Final = "certificate"
_NAMES: Final = ("URI:", "DNS:")
"""What names that count begin with."""


class CertificateNames:
    """The names of a file, as it is now."""

    anonymous = False

    def __init__(self, file: LiveFiles[Mapping[str, str]]) -> None:
        self._file = file

    @classmethod
    def read(cls, path: Path, clock: Callable[[], float] = time.monotonic) -> "CertificateNames":
        """Read a file of names. Raises `OSError`, or `BadFile`."""
        return cls(LiveFiles([path], lambda: _read(path), clock))

    def identify(self, credentials: Credentials) -> Identity:
        """Return the tenant that a certificate's names stand for; two tenants' names are nobody's."""
        tenants = self._file.content
        known = [name for name in map(_usual, credentials.names) if name in tenants]
        if len({tenants[name] for name in known}) != 1 or credentials.expires <= time.time():
            raise Unauthenticated
        return Identity(tenants[known[0]], f"{KIND}:{known[0]}", credentials.expires)

    def holds(self, identity: Identity) -> bool:
        """Tell whether the certificate is good yet, and its name still in the file for this tenant."""
        name = identity.credential.removeprefix(f"{KIND}:")
        return self._file.content.get(name) == identity.tenant and time.time() < identity.expires


def _read(path: Path) -> dict[str, str]:
    tenants: dict[str, str] = {}
    for number, words in entries(path):
        if len(words) != 2 or not words[0].startswith(_NAMES) or not is_tenant(words[1]):
            raise BadFile(f"{path}, line {number}: expected 'URI:<uri> <tenant>' or 'DNS:…'")
        if (name := _usual(words[0])) in tenants:
            raise BadFile(f"{path}, line {number}: this name is there already")
        tenants[name] = words[1]
    return tenants


def _usual(name: str) -> str:
    """Return a name as it is compared: upper and lower case are the same in the DNS."""
    return name[:4] + name[4:].lower() if name.startswith("DNS:") else name
