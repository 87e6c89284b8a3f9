"""All model servers of the service: watched by one task, and sorted into a pool for each model."""

import asyncio
import random
from collections.abc import Set as AbstractSet

import structlog

from service.errors import ModelError
from service.metrics import Metrics
from service.router import Router
from service.servers import Roster
from service.servers.member import Make, Member, Pace
from service.servers.pool import Pool

log = structlog.get_logger(__name__)

_JITTER = 0.2
"""How far an interval may be off, either way, so that replicas do not look all at once."""


class Fleet:
    """All model servers. It tells the router which models there are.

    A model that the operator named is there from the start and stays, whether or not a server of it is up:
    clients that chose it from the list are told that it is unavailable, not that it does not exist. One
    that a server listed by itself is there from when the server was met until it lists others. It takes
    no name that the operator gave to something else.
    """

    def __init__(
        self,
        roster: Roster,
        router: Router,
        make: Make,
        metrics: Metrics,
        pace: Pace | None = None,
    ) -> None:
        self._strict = roster.strict
        self._router = router
        self._metrics = metrics
        self._pace = pace or Pace()
        self._members = [Member(one, make, self._pace, metrics) for one in roster.servers]
        named = (name for server in roster.servers for name in server.models)
        self._given = frozenset([*named, *roster.aliases])
        self._hidden: set[tuple[str, str]] = set()
        self._pools: dict[str, Pool] = {}
        self._watching: asyncio.Task[None] | None = None
        for member in self._members:
            self._sort(member)

    async def start(self) -> None:
        """Meet the servers. Those that are down are met later, when they come up.

        Where all models must be served, raises the `ModelError` of a server that a model lacks.
        """
        self._watching = asyncio.create_task(self._watch())
        met = asyncio.gather(*(member.looked.wait() for member in self._members))
        try:
            async with asyncio.timeout(None if self._strict else self._pace.patience):
                await met
        except TimeoutError:
            return
        if self._strict:
            self._check_all()

    async def stop(self) -> None:
        """Let go of all servers."""
        if self._watching:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        for member in self._members:
            await member.stop()

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as group:
            for member in self._members:
                group.create_task(self._look_after(member))

    async def _look_after(self, member: Member) -> None:
        while True:
            await member.look()
            self._sort(member)
            interval = self._pace.interval
            await asyncio.sleep(interval * random.uniform(1 - _JITTER, 1 + _JITTER))  # noqa: S311

    def _sort(self, member: Member) -> None:
        """Put a server into the pools of the models that it has, and out of others."""
        models = self._offered(member)
        for name in models:
            if name not in self._pools:
                self._pools[name] = Pool(name, self._metrics)
                self._router.add(self._pools[name])
            self._pools[name].join(member)
        for name in self._pools.keys() - models:
            self._pools[name].leave(member)
            if self._pools[name].empty:
                self._router.remove(self._pools.pop(name))

    def _offered(self, member: Member) -> AbstractSet[str]:
        """Return the models that clients may ask a server for: what it lists by itself hides nothing."""
        if member.server.models:
            return member.models.keys()
        for name in sorted(member.models.keys() & self._given):
            if (member.name, name) not in self._hidden:
                self._hidden.add((member.name, name))
                log.warning("server_model_hidden", server=member.name, model=name)
        return member.models.keys() - self._given

    def _check_all(self) -> None:
        """Raise `ModelError` if a model has no server that is up, or no server could be asked for models."""
        for member in self._members:
            offered = self._offered(member)
            served = all(self._pools[name].up for name in offered) and offered
            if not member.up and not served:
                why = member.failure.message if member.failure else "It is down."
                raise ModelError("server_error", f"{member.name}: {why}")
