"""What each tenant may have, and what it has had: limits per tenant, kept by this process.

Rates are buckets that hold a minute's worth: a tenant that was quiet may be quick for a while.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from turnwire.v1 import responses_pb2


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """What a tenant may have, of one process unless it says otherwise."""

    connections: float = math.inf
    """Open at once."""
    turns_per_minute: float = math.inf
    bytes_per_minute: float = math.inf
    """Of what its clients send to be answered."""
    tokens_per_minute: float = math.inf
    """Of prompts, as far as they were not cached, and of output."""
    stored_bytes: int | None = None
    """Of what is stored for it, by all processes; None is no bound."""
    screening: responses_pb2.ModerationSettings | None = None
    """How all its turns are screened at least, whether they ask for it or not."""
    suspended: bool = False
    """Whether none of its credentials is good for anything."""


class Account:
    """What one tenant has."""

    def __init__(self, allowance: Callable[[], Allowance]) -> None:
        self._allowance = allowance

    @property
    def allowance(self) -> Allowance:
        """What it may have now."""
        return self._allowance()

    def open(self) -> None:
        """Count a connection. Raises `RateLimited`."""

    def close(self) -> None:
        """A connection has ended."""

    def take(self, size: int) -> None:
        """Count a turn of so many bytes. Raises `RateLimited`, which says when to try again."""

    def spent(self, tokens: int) -> None:
        """Count tokens that a turn has cost: known only afterwards, they may make a debt."""


class Tenants:
    """The accounts of all tenants."""

    def __init__(self, allowance_of: Callable[[str], Allowance] = lambda _: Allowance()) -> None:
        self._allowance_of = allowance_of
        self._accounts: dict[str, Account] = {}

    def of(self, tenant: str) -> Account:
        """Return a tenant's account. Tenants are as many as the operator made."""
        if tenant not in self._accounts:
            self._accounts[tenant] = Account(lambda: self._allowance_of(tenant))
        return self._accounts[tenant]
