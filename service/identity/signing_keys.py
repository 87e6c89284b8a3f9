"""What tokens may be signed with: the keys of a JSON Web Key Set (RFC 7517), as far as they are of use.

Pure. Of use are public keys for the algorithms that the operator pinned, and long enough for them.
A shared secret in such a set would let everyone who can read the set sign.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from jwt import PyJWK, PyJWTError

ASYMMETRIC: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)
"""The algorithms that there are to pin."""
_MOST: Final = 64  # keys of one set that are looked at
_KINDS: Final = frozenset({"RSA", "EC", "OKP"})


class SigningKey(NamedTuple):
    """A key, and what it is used with."""

    id: str | None
    algorithm: str
    key: PyJWK


def read_keys(document: object, algorithms: Sequence[str]) -> list[SigningKey]:
    """Return the keys of a set that are of use; everything else in it is passed over."""
    found = document.get("keys") if isinstance(document, dict) else None
    listed = found[:_MOST] if isinstance(found, list) else []
    return [key for data in filter(_is_public, listed) for key in _uses(data, algorithms)]


def key_for(keys: Sequence[SigningKey], key_id: str | None, algorithm: str) -> PyJWK | None:
    """Return the key that a token names; one that names none is signed with the only one there is."""
    fitting = [
        key.key
        for key in keys
        if key.algorithm == algorithm and (key_id is None or key.id == key_id)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _is_public(data: object) -> bool:
    return (
        isinstance(data, dict)
        and data.get("kty") in _KINDS
        and data.get("use", "sig") == "sig"
        and "d" not in data
    )


def _uses(data: Mapping[str, Any], algorithms: Sequence[str]) -> Iterator[SigningKey]:
    """Yield a key with each algorithm it fits; one that says which it is for fits no other."""
    key_id = data.get("kid")
    name = key_id if isinstance(key_id, str) else None
    for algorithm in algorithms:
        if data.get("alg", algorithm) == algorithm and (key := _made(data, algorithm)):
            yield SigningKey(name, algorithm, key)


def _made(data: Mapping[str, Any], algorithm: str) -> PyJWK | None:
    try:
        key = PyJWK(dict(data), algorithm)
        prepared = key.Algorithm.prepare_key(key.key)
    except (PyJWTError, ValueError, TypeError, AttributeError):
        return None  # the library tells bad members of a key in any of these ways
    return None if key.Algorithm.check_key_length(prepared) else key
