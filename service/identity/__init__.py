"""Who is calling: which tenant, shown by which credential, and for how long that is good.

A transport shows what a client brought, `Credentials`; an `Identities` says whose it is. A connection
may live for an hour: `holds` is asked again every few seconds for as long as it is open.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol


class Credentials(NamedTuple):
    """What a client shows of itself."""

    authorization: str | None = None
    """The value of its one Authorization header."""
    names: tuple[str, ...] = ()
    """The names in the certificate that its TLS connection was verified by: `URI:…`, `DNS:…`."""
    expires: float = math.inf
    """When that certificate does, in seconds since 1970."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A tenant, as one of its credentials shows it."""

    tenant: str
    credential: str = ""
    """What the credential is called in logs and audits. Nothing can be done with it."""
    expires: float = math.inf
    """In seconds since 1970."""


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
