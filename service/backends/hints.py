"""What model servers are told about whose a request is, without being told whose it is.

The same on every replica and after every restart, so that caches are found again. Tenants and
conversations themselves never leave: what stands for them tells only the same from the different.
"""

import hmac

_DOMAIN = b"turnwire/hints/v1"
_LENGTH = 32  # characters, 128 bits


def salt(tenant: str) -> str:
    """Return what keeps a tenant's prefixes in a model server's cache apart from everybody else's."""
    return _hint("salt", tenant)


def salt_number(tenant: str) -> int:
    """Return the salt for model servers that know it as a number, of 63 bits."""
    return int(salt(tenant)[:16], 16) >> 1


def session(conversation: str) -> str:
    """Return what tells a model server that requests belong to one conversation."""
    return _hint("session", conversation)


def cache_key(tenant: str, key: str) -> str:
    """Return what stands for a tenant's own key for prompts that begin alike."""
    return _hint("cache key", f"{salt(tenant)}{key}")


def _hint(purpose: str, secret: str) -> str:
    said = f"{purpose}\0{secret}".encode()
    return hmac.digest(_DOMAIN, said, "sha256").hex()[:_LENGTH]
