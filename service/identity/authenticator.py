"""All ways in, in one: which kind of credential it is that a client shows, and that nothing else is tried.

What stands in the Authorization header decides alone: a wrong key beside a good certificate is
refused. A certificate's names count where there is no such header.
"""

import enum
from collections.abc import Callable, Mapping

from service.errors import Unauthenticated
from service.identity import Credentials, Identities, Identity, certificates, keys, tokens
from service.metrics import Metrics


class Method(enum.StrEnum):
    """The kinds of credentials, as metrics call them."""

    KEY = "key"
    TOKEN = "token"  # noqa: S105 - no password
    CERTIFICATE = "certificate"
    NONE = "none"


_KINDS: Mapping[str, Method] = {
    keys.KIND: Method.KEY,
    tokens.KIND: Method.TOKEN,
    certificates.KIND: Method.CERTIFICATE,
}


class Authenticator:
    """Identities by several kinds of credentials; `suspended` tells which tenants have none at all."""

    anonymous = False

    def __init__(
        self,
        ways: Mapping[Method, Identities],
        suspended: Callable[[str], bool],
        metrics: Metrics,
    ) -> None:
        self._ways = ways
        self._suspended = suspended
        self._counter = metrics.identifications

    def identify(self, credentials: Credentials) -> Identity:
        """Return whose credentials these are. Raises `Unauthenticated`, always alike."""
        method = _method_of(credentials)
        try:
            identity = self._identify(method, credentials)
        except Unauthenticated:
            self._counter.labels(method.value, "refused").inc()
            raise
        self._counter.labels(method.value, "ok").inc()
        return identity

    def holds(self, identity: Identity) -> bool:
        """Tell whether an identity is still good, and its tenant not suspended."""
        way = self._ways.get(_KINDS.get(identity.kind, Method.NONE))
        return way is not None and way.holds(identity) and not self._suspended(identity.tenant)

    def _identify(self, method: Method, credentials: Credentials) -> Identity:
        if (way := self._ways.get(method)) is None:
            raise Unauthenticated
        identity = way.identify(credentials)
        if self._suspended(identity.tenant):
            raise Unauthenticated
        return identity


def _method_of(credentials: Credentials) -> Method:
    """Tell which kind a client shows. What is none of ours is looked up like a key, in the same time."""
    if credentials.authorization is None:
        return Method.CERTIFICATE if credentials.names else Method.NONE
    shown = credentials.bearer
    is_token = not shown.startswith(keys.PREFIX) and shown.count(".") == 2
    return Method.TOKEN if is_token else Method.KEY
