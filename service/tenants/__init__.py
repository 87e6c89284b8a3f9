"""What each tenant may have, and what it has had: limits per tenant, kept by this process.

Rates are buckets that hold a minute's worth: a tenant that was quiet may be quick for a while.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple
from weakref import WeakValueDictionary

from service.errors import RateLimited
from service.tenants.buckets import Bucket
from turnwire.v1 import responses_pb2

Limit = Literal["connections", "turns", "bytes", "tokens"]

_MOST_REMEMBERED = 65_536
"""Accounts that have something to remember. Tenants beyond are forgotten, the longest unused first: with
a token issuer there may be any number of them."""
_REVISED = 2
"""Accounts that are looked at whenever one more is to be remembered: so the settled ones go in time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Allowance:
    """What a tenant may have, of one process unless it says otherwise. Rates are above zero."""

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

    @property
    def metered(self) -> bool:
        """Whether anything is counted against a rate."""
        return min(self.turns_per_minute, self.bytes_per_minute, self.tokens_per_minute) < math.inf


_UNBOUNDED = Allowance()


class _Draw(NamedTuple):
    """What is to be taken from one bucket."""

    limit: Limit
    bucket: Bucket
    amount: float
    rate: float


class Account:
    """What one tenant has. It lives for as long as somebody holds it, or it has something to remember."""

    __slots__ = ("__weakref__", "_bytes", "_open", "_tenants", "_tokens", "_turns", "tenant")

    def __init__(self, tenant: str, tenants: "Tenants") -> None:
        self.tenant = tenant
        self._tenants = tenants
        self._open = 0
        self._turns, self._bytes, self._tokens = Bucket(), Bucket(), Bucket()

    @property
    def allowance(self) -> Allowance:
        """What it may have now."""
        return self._tenants.allowance(self.tenant)

    @property
    def settled(self) -> bool:
        """Whether it is like a new one: nothing open, and as much left as there can be."""
        now = self._tenants.clock()
        buckets = (self._turns, self._bytes, self._tokens)
        return not self._open and all(bucket.full(now) for bucket in buckets)

    def open(self) -> None:
        """Count a connection. Raises `RateLimited`."""
        most = self.allowance.connections
        if self._open >= most:
            self._tenants.refused("connections")
            raise RateLimited(
                f"Rate limit reached: {most:,.10g} connections at once. Close one, or reuse it: "
                "one connection can have several turns at once."
            )
        self._open += 1
        self._tenants.remember(self)

    def close(self) -> None:
        """A connection has ended."""
        self._open -= 1

    def take(self, size: int) -> None:
        """Count a turn of so many bytes. Raises `RateLimited`, which says when to try again.

        All or nothing is taken. Of tokens only a debt counts: how many it will be nobody knows.
        """
        allowance, now = self.allowance, self._tenants.clock()
        if not allowance.metered:
            return
        turns = _Draw("turns", self._turns, 1, allowance.turns_per_minute)
        sent = _Draw("bytes", self._bytes, size, allowance.bytes_per_minute)
        tokens = _Draw("tokens", self._tokens, 1, allowance.tokens_per_minute)
        self._check((turns, sent, tokens), now)
        for draw in (turns, sent):
            draw.bucket.take(draw.amount, draw.rate, now)
        self._tenants.remember(self)

    def spent(self, tokens: int) -> None:
        """Count tokens that a turn has cost: known only afterwards, they may make a debt."""
        allowance = self.allowance
        if allowance.metered:
            self._tokens.take(tokens, allowance.tokens_per_minute, self._tenants.clock())
            self._tenants.remember(self)

    def _check(self, draws: tuple[_Draw, ...], now: float) -> None:
        """Raise `RateLimited` for whatever has to be waited for longest."""
        waits = [draw.bucket.wait(draw.amount, draw.rate, now) for draw in draws]
        if seconds := max(waits):
            draw = draws[waits.index(seconds)]
            self._tenants.refused(draw.limit)
            raise _later(draw, math.ceil(seconds))


class Tenants:
    """The accounts of all tenants."""

    def __init__(
        self,
        allowance_of: Callable[[str], Allowance] = lambda _: _UNBOUNDED,
        refused: Callable[[Limit], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
        most_remembered: int = _MOST_REMEMBERED,
    ) -> None:
        """Take what says what a tenant may have, now, and what is told of refusals."""
        self.allowance = allowance_of
        self.refused = refused
        self.clock = clock
        self._most_remembered = most_remembered
        self._accounts = WeakValueDictionary[str, Account]()
        self._remembered = OrderedDict[str, Account]()

    def of(self, tenant: str) -> Account:
        """Return a tenant's account."""
        if (account := self._accounts.get(tenant)) is None:
            account = self._accounts[tenant] = Account(tenant, self)
        return account

    def suspended(self, tenant: str) -> bool:
        """Tell whether none of a tenant's credentials is good for anything."""
        return self.allowance(tenant).suspended

    def remember(self, account: Account) -> None:
        """Keep an account until it is settled, whether somebody holds it or not."""
        if account.tenant not in self._remembered:
            self._revise()
        self._remembered[account.tenant] = account
        self._remembered.move_to_end(account.tenant)
        if len(self._remembered) > self._most_remembered:
            self._remembered.popitem(last=False)

    def _revise(self) -> None:
        """Forget accounts that are settled, of those that were not used for longest."""
        for _ in range(min(_REVISED, len(self._remembered))):
            tenant, account = self._remembered.popitem(last=False)
            if not account.settled:
                self._remembered[tenant] = account


def _later(draw: _Draw, seconds: int) -> RateLimited:
    """Say which limit it is, and when to come again, as clients read it in either place."""
    refusal = RateLimited(
        f"Rate limit reached: {draw.rate:,.10g} {draw.limit} a minute. "
        f"Please try again in {seconds}s."
    )
    refusal.headers = {"retry-after": str(seconds)}
    return refusal
