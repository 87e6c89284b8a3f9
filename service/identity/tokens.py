"""JSON Web Tokens: who is calling, as an issuer that the operator trusts says it.

A token must be signed by one of that issuer's keys with a pinned algorithm, be meant for this
service, and expire. Its tenant is the claim the operator chose; a token that names the same tenant as
a key file does is that tenant.
"""

import hashlib
import math
import time
from dataclasses import dataclass
from typing import Any, Final

import jwt

from service.errors import Unauthenticated
from service.identity import Credentials, Identity, is_tenant
from service.identity.issuer import Issuer
from service.identity.signing_keys import ASYMMETRIC

KIND: Final = "jwt"
LEEWAY: Final = 30.0
"""Seconds that an issuer's clock may be ahead of this one."""
_MOST: Final = 16 * 1024  # characters of a token
_MARK: Final = 12  # characters of a digest that tell two subjects apart
_REQUIRED: Final = ("exp", "iss", "aud")


@dataclass(frozen=True, kw_only=True, slots=True)
class Claims:
    """What the operator wants tokens to say."""

    audience: str
    tenant: str = "sub"
    """The claim that names the tenant."""


class Tokens:
    """The tokens of one issuer."""

    anonymous = False

    def __init__(self, issuer: Issuer, claims: Claims) -> None:
        """Raises `ValueError` for an algorithm by which whoever can verify could sign as well."""
        if not issuer.algorithms or not ASYMMETRIC.issuperset(issuer.algorithms):
            raise ValueError(f"expected algorithms among {', '.join(sorted(ASYMMETRIC))}")
        self._issuer = issuer
        self._claims = claims

    def identify(self, credentials: Credentials) -> Identity:
        """Return whom a token speaks for. Raises `Unauthenticated`, always alike."""
        token = credentials.bearer
        if len(token) > _MOST:
            raise Unauthenticated
        try:
            claims = self._verified(token)
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError):
            raise Unauthenticated from None
        return self._identity(claims)

    def holds(self, identity: Identity) -> bool:
        """Tell whether the token has not expired yet. It cannot be called back."""
        return time.time() < identity.expires

    def _verified(self, token: str) -> dict[str, Any]:
        """Return a token's claims. Raises what the library does."""
        header = jwt.get_unverified_header(token)
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._issuer.algorithms:
            raise jwt.InvalidAlgorithmError
        if (key := self._issuer.key(key_id, algorithm)) is None:
            raise jwt.InvalidKeyError
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._claims.audience,
            issuer=self._issuer.name,
            leeway=LEEWAY,
            options={"require": list(_REQUIRED), "enforce_minimum_key_length": True},
        )

    def _identity(self, claims: dict[str, Any]) -> Identity:
        """Return whom claims speak for. An expiry has no leeway: connections end by it as well."""
        tenant, expires = claims.get(self._claims.tenant), claims["exp"]
        if not isinstance(tenant, str) or not is_tenant(tenant):
            raise Unauthenticated
        if not isinstance(expires, (int, float)) or not time.time() < expires < math.inf:
            raise Unauthenticated
        return Identity(tenant, _called(claims.get("sub", tenant)), expires)


def _called(subject: object) -> str:
    """Return what a token is called: its subject may be a person, so not by name."""
    digest = hashlib.sha256(str(subject).encode(errors="replace")).hexdigest()
    return f"{KIND}:{digest[:_MARK]}"
