"""One-time tickets: how a web page connects, which can keep no API key and send no Authorization.

The page's own backend, which has a key, asks for a ticket and hands it to the page. A ticket is 256
random bits, stands for the tenant, is good for one connection and for a minute. It is looked up by
its hash, which a dictionary finds in one step: how long that takes says something about hashes only,
and nobody can make up a ticket for a hash. Tickets are known to the process that made them.
"""

import hashlib
import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from service.errors import RateLimited, Unauthenticated
from service.identity import Identity

LIFETIME: Final = 60
"""Seconds until a ticket that nobody has used is worth nothing."""
MOST: Final = 1024
"""Unused tickets of a tenant. Key files name the tenants, so this bounds all there are."""


class _Issued(NamedTuple):
    caller: Identity
    expires: float


class Tickets:
    """The tickets that are not used yet, oldest first. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._issued: OrderedDict[bytes, _Issued] = OrderedDict()
        self._outstanding: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._issued)

    def issue(self, caller: Identity) -> str:
        """Return a new ticket. Raises `RateLimited` if the tenant has too many unused ones."""
        self._expire()
        if self._outstanding[caller.tenant] >= MOST:
            raise RateLimited(
                f"{MOST} tickets are unused. Ask for one when a page is about to connect; "
                f"unused ones expire after {LIFETIME} seconds."
            )
        ticket = secrets.token_urlsafe(32)
        self._issued[_digest(ticket)] = _Issued(caller, self._clock() + LIFETIME)
        self._outstanding[caller.tenant] += 1
        return ticket

    def redeem(self, ticket: str) -> Identity:
        """Return who asked for the ticket, this once. Raises `Unauthenticated`, always alike."""
        issued = self._issued.pop(_digest(ticket), None)
        if issued is None:
            raise Unauthenticated
        self._forget(issued)
        if self._clock() >= issued.expires:
            raise Unauthenticated
        return issued.caller

    def _expire(self) -> None:
        """Drop what has expired: as all tickets live equally long, the oldest come first."""
        now = self._clock()
        while self._issued and next(iter(self._issued.values())).expires <= now:
            self._forget(self._issued.popitem(last=False)[1])

    def _forget(self, issued: _Issued) -> None:
        self._outstanding[issued.caller.tenant] -= 1
        if not self._outstanding[issued.caller.tenant]:
            del self._outstanding[issued.caller.tenant]


def _digest(ticket: str) -> bytes:
    return hashlib.sha256(ticket.encode(errors="surrogatepass")).digest()
