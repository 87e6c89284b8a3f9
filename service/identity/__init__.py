"""Who is calling: which tenant, shown by which credential, and for how long that is good.

A transport shows what a client brought, `Credentials`; an `Identities` says whose it is. A connection
may live for an hour: `holds` is asked again every few seconds for as long as it is open.
"""

import math
import re
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

_TENANT: Final = re.compile(r"[!-\"$-~]{1,128}")


class Credentials(NamedTuple):
    """What a client shows of itself."""

    authorization: str | None = None
    """The value of its one Authorization header."""
    names: tuple[str, ...] = ()
    """The names in the certificate that its TLS connection was verified by: `URI:…`, `DNS:…`."""
    expires: float = math.inf
    """When that certificate does, in seconds since 1970."""

    @property
    def bearer(self) -> str:
        """The key or token in that header; empty if it holds none."""
        scheme, _, token = (self.authorization or "").partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""


@dataclass(frozen=True, slots=True)
class Identity:
    """A tenant, as one of its credentials shows it."""

    tenant: str
    credential: str = ""
    """What the credential is called in logs and audits: its kind, then `:`. Nothing can be done with it."""
    expires: float = math.inf
    """In seconds since 1970."""

    @property
    def kind(self) -> str:
        """Which kind of credential it is."""
        return self.credential.partition(":")[0]


class Identities(Protocol):
    """Tells who is calling."""

    @property
    def anonymous(self) -> bool:
        """Whether everyone is let in."""

    def identify(self, credentials: Credentials) -> Identity:
        """Return whose credentials these are. Raises `Unauthenticated`, always alike."""

    def holds(self, identity: Identity) -> bool:
        """Tell whether an identity is still good: not expired, not revoked. Must be quick."""


class Anonymous:
    """No credentials are asked for: everyone is the same tenant."""

    anonymous = True

    def identify(self, credentials: Credentials) -> Identity:
        """Return the one tenant there is; whatever key a client sends is ignored."""
        del credentials
        return Identity("anonymous")

    def holds(self, identity: Identity) -> bool:
        """Tell that it is: nobody can be told apart."""
        del identity
        return True


def is_tenant(name: str) -> bool:
    """Tell whether this can be a tenant's name: up to 128 visible characters of ASCII, without '#'."""
    return _TENANT.fullmatch(name) is not None
