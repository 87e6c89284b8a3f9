"""Verdicts that were given, so that what was screened once is never classified again.

Each tenant has its own. Were they shared, the time that a screening takes would tell a tenant what
others have said, and one that says much would push out the verdicts of the rest.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import structlog

from service.metrics import Metrics
from service.moderation.verdicts import Classifier, Failure, Verdict

log = structlog.get_logger(__name__)

_OVERHEAD = 768  # bytes that a verdict and its key weigh in Python beyond its scores
_SCORE = 64
_TENANT = 1024  # bytes that a tenant weighs without any verdict
_TENANTS = 16  # whose budgets all tenants together have
_DEFECT = Failure("server_error", "The classifier failed.")


class _Key(NamedTuple):
    classifier: str
    version: str
    digest: bytes


@dataclass(slots=True, eq=False)
class _Flight:
    """Texts that are being classified, and how many screenings wait for them."""

    task: asyncio.Task[Mapping[_Key, Verdict] | Failure]
    keys: Sequence[_Key]
    waiting: int = 0


class VerdictCache:
    """The verdicts of all tenants.

    `budget` is the bytes that those of one tenant may weigh, `total` those of all: beyond that the tenants
    that were screened longest ago are forgotten. There may be any number of tenants.
    """

    def __init__(self, budget: int, metrics: Metrics, total: int | None = None) -> None:
        self._budget = budget
        self._total = _TENANTS * budget if total is None else total
        self._metrics = metrics
        self._bytes = 0
        self._tenants: OrderedDict[str, TenantVerdicts] = OrderedDict()

    def of(self, tenant: str) -> "TenantVerdicts":
        """Return a tenant's verdicts."""
        if tenant not in self._tenants:
            self._tenants[tenant] = TenantVerdicts(self._budget, self._metrics, self._grow)
            self._grow(_TENANT)
        self._tenants.move_to_end(tenant)
        return self._tenants[tenant]

    def clear(self) -> None:
        """Forget all tenants: what they said is classified again."""
        while self._tenants:
            self._forget_one()

    def _grow(self, weight: int) -> None:
        self._bytes += weight
        self._metrics.verdict_bytes.inc(weight)
        while self._bytes > self._total and len(self._tenants) > 1:
            self._forget_one()

    def _forget_one(self) -> None:
        _, longest_unused = self._tenants.popitem(last=False)
        self._bytes -= _TENANT
        self._metrics.verdict_bytes.dec(_TENANT)
        longest_unused.retire()


class TenantVerdicts:
    """An LRU of verdicts, and those that are about to be given. Holds digests, never texts."""

    def __init__(self, budget: int, metrics: Metrics, grow: Callable[[int], None]) -> None:
        self._budget = budget
        self._grow_all = grow
        self._bytes = 0
        self._verdicts: OrderedDict[_Key, Verdict] = OrderedDict()
        self._flights: dict[_Key, _Flight] = {}
        self._metrics = metrics
        self._hits = metrics.verdicts.labels("hit")
        self._misses = metrics.verdicts.labels("miss")

    def retire(self) -> None:
        """Let go of all verdicts, and keep no more: turns that are under way still get theirs."""
        self._budget = 0
        self._shrink()

    async def of(self, classifier: Classifier, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        """Return a verdict for each distinct text; only what nobody asks for already is classified."""
        wanted = {_key(classifier, text): text for text in texts}
        found = {key: verdict for key in wanted if (verdict := self._recall(key))}
        missing = {key: text for key, text in wanted.items() if key not in found}
        for landed in await self._landed(classifier, missing) if missing else ():
            if isinstance(landed, Failure):
                return landed
            found.update(landed)
        return [found[key] for key in wanted]

    async def _landed(
        self, classifier: Classifier, missing: Mapping[_Key, str]
    ) -> Sequence[Mapping[_Key, Verdict] | Failure]:
        """Wait until everything missing was classified. What nobody waits for any more is given up."""
        flights = self._board(classifier, missing)
        try:
            await asyncio.wait([flight.task for flight in flights])
        finally:
            for flight in flights:
                self._leave(flight)
        return [flight.task.result() for flight in flights]

    def _board(self, classifier: Classifier, missing: Mapping[_Key, str]) -> set[_Flight]:
        new = {key: text for key, text in missing.items() if key not in self._flights}
        self._misses.inc(len(new))
        self._hits.inc(len(missing) - len(new))
        if new:
            task = asyncio.create_task(self._classify(classifier, new))
            flight = _Flight(task, tuple(new))
            self._flights.update(dict.fromkeys(new, flight))
        flights = {self._flights[key] for key in missing}
        for flight in flights:
            flight.waiting += 1
        return flights

    def _leave(self, flight: _Flight) -> None:
        flight.waiting -= 1
        if not flight.waiting:
            flight.task.cancel()
            for key in flight.keys:
                del self._flights[key]

    async def _classify(
        self, classifier: Classifier, texts: Mapping[_Key, str]
    ) -> Mapping[_Key, Verdict] | Failure:
        try:
            verdicts = await classifier.classify(list(texts.values()))
            if not isinstance(verdicts, Failure):
                return self._keep(dict(zip(texts, verdicts, strict=True)))
        except Exception:
            log.exception("classifier_failed")
            verdicts = _DEFECT
        self._metrics.classifier_failures.inc()
        return verdicts

    def _recall(self, key: _Key) -> Verdict | None:
        if verdict := self._verdicts.get(key):
            self._verdicts.move_to_end(key)
            self._hits.inc()
        return verdict

    def _keep(self, verdicts: Mapping[_Key, Verdict]) -> Mapping[_Key, Verdict]:
        for key, verdict in verdicts.items():
            self._verdicts[key] = verdict
            self._grow(_weight(verdict))
        self._shrink()
        return verdicts

    def _shrink(self) -> None:
        while self._bytes > self._budget:
            _, verdict = self._verdicts.popitem(last=False)
            self._grow(-_weight(verdict))
            self._metrics.verdict_evictions.inc()

    def _grow(self, weight: int) -> None:
        self._bytes += weight
        self._grow_all(weight)


def _key(classifier: Classifier, text: str) -> _Key:
    digest = hashlib.blake2b(text.encode(), digest_size=32).digest()
    return _Key(classifier.name, classifier.version, digest)


def _weight(verdict: Verdict) -> int:
    return _OVERHEAD + _SCORE * len(verdict.scores)
