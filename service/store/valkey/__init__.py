"""A vault in Valkey or Redis: one hash for a conversation's tree, one function call for whatever is done.

The servers see sealed bytes under hashed names. docs/valkey.md says how they are to be set up.
"""

import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from service import ids
from service.metrics import Metrics
from service.store import Cell, CellName, StoreFull, StoreUnavailable
from service.store.operations import Operations, Outcome
from service.store.valkey.address import Address
from service.store.valkey.caller import Caller, Demands, NotReplicated
from service.store.valkey.functions import Call, Word
from service.store.valkey.keys import cell_key, quota_key, tree_key
from service.store.valkey.servers import Alone, Cluster
from service.store.vault import Orphaned, Path, Record, Step, TreeSize, VaultLimits

_MOST_UNDER_WAY = 4096
"""Operations at once; more are refused: they would only wait longer."""
_LONGEST_ID = 256
"""No record's id is longer: what clients send instead need not be looked up."""
_PARTS = 24
"""Stretches of time that a quota tells apart, of the time that trees are kept."""
_NEW, _ORPHAN = b"new", b"orphan"
"""What may become of a record: it is kept, or not, for what it continues is not there."""
_DROPPED = 60_000
"""Milliseconds that a dropped cell is remembered, so that dropping it can be repeated."""


class ValkeyVault:
    """Keeps records and cells on one server and its replicas, or on a cluster."""

    def __init__(
        self, address: Address, demands: Demands, limits: VaultLimits, metrics: Metrics
    ) -> None:
        servers = Cluster(address) if address.clustered else Alone(address)
        self._caller = Caller(servers, demands)
        self._level = "replicated" if demands.replicas else "primary"
        self._limits = limits
        self._acknowledged = metrics.store_acknowledged
        self._operations = Operations(metrics)
        self._under_way = 0
        metrics.store_circuit_open.set_function(lambda: not self._caller.well)

    async def start(self) -> None:
        """Connect, and give the servers the functions. A `StoreUnavailable` says in a note what to do."""
        await self._caller.start()

    async def stop(self) -> None:
        """Close all connections."""
        await self._caller.stop()

    def check(self) -> None:
        """Raise `StoreUnavailable` at once if a put is known to fail now."""
        self._caller.check()

    def expire(self) -> None:
        """Do nothing: the servers let go of what is too old."""

    async def put(self, tenant: str, record: Record, quota: int | None) -> TreeSize:
        """Keep a record. What it weighs is reserved first, and given back if nothing new was kept.

        Raises `Orphaned` if what it continues is not there.
        """
        deadline = self._caller.deadline()
        with self._counted("put"):
            counts = quota is not None and await self._reserve(tenant, record, quota, deadline)
            what, size = await self._keep("rs_put", tenant, record, deadline)
            if counts and what != _NEW:
                await self._release(tenant, record.weight, deadline)
            if what == _ORPHAN:
                raise Orphaned
        return size

    async def amend(self, tenant: str, record: Record) -> None:
        """Keep a record, in the place of the one with its id if there is one."""
        with self._counted("amend"):
            await self._keep("rs_amend", tenant, record, self._caller.deadline())

    async def path(self, tenant: str, record_id: str, held: Collection[str]) -> Path | None:
        """Return a path, in one round trip however long it is."""
        most = (self._limits.path_records, self._limits.path_bytes)
        with self._counted("hydrate") as outcome:
            found = await self._read("rs_hydrate", tenant, record_id, (*most, *held))
            return outcome.of(_path_of(found) if found else None)

    async def retrieve(self, tenant: str, record_id: str) -> Record | None:
        """Return one record."""
        with self._counted("retrieve") as outcome:
            found = await self._read("rs_get", tenant, record_id, ())
            return outcome.of(_record_of(record_id, found) if found else None)

    async def delete(self, tenant: str, record_id: str) -> bool:
        """Forget a record, and give what it weighed back to its tenant."""
        with self._counted("delete") as outcome:
            return outcome.of(await self._delete(tenant, record_id))

    async def read(self, name: CellName) -> Cell | None:
        """Return a cell, or None."""
        with self._counted("read") as outcome:
            found = await self._caller.read(Call("rs_read", cell_key(name), ()))
            return outcome.of(Cell(int(found[0]), found[1]) if found else None)

    async def write(self, name: CellName, cell: Cell, ttl: float) -> bool:
        """Write a cell, if what is there is of the revision before; tell whether it was."""
        arguments = (_milliseconds(ttl), _draw(), cell.revision, cell.data)
        with self._counted("write") as outcome:
            call = Call("rs_write", cell_key(name), arguments)
            return outcome.of(bool(await self._caller.write(call, self._caller.deadline())))

    async def drop(self, name: CellName) -> bool:
        """Forget a cell; tell whether it was there."""
        with self._counted("drop") as outcome:
            call = Call("rs_drop", cell_key(name), (_DROPPED, _draw()))
            return outcome.of(bool(await self._caller.write(call, self._caller.deadline())))

    async def _keep(
        self, function: str, tenant: str, record: Record, deadline: float
    ) -> tuple[bytes, TreeSize]:
        """Write a record; return what became of it, and how large that makes the tree."""
        arguments = (self._ttl, *record[:4], int(record.pinned))
        call = Call(function, _tree_of(tenant, record.id), arguments)
        try:
            what, *size = await self._caller.write(call, deadline)
        except NotReplicated:
            self._acknowledged.labels("short").inc()
            raise
        if what != _ORPHAN:
            self._acknowledged.labels(self._level).inc()
        return what, TreeSize(*size)

    async def _delete(self, tenant: str, record_id: str) -> bool:
        if len(record_id) > _LONGEST_ID:
            return False
        deadline = self._caller.deadline()
        call = Call("rs_delete", _tree_of(tenant, record_id), (record_id, _draw()))
        there, freed = await self._caller.write(call, deadline)
        if freed:
            await self._release(tenant, freed, deadline)
        return bool(there)

    async def _read(
        self, function: str, tenant: str, record_id: str, arguments: Sequence[Word]
    ) -> Any:
        if len(record_id) > _LONGEST_ID:
            return None
        key = _tree_of(tenant, record_id)
        return await self._caller.read(Call(function, key, (self._ttl, record_id, *arguments)))

    async def _reserve(self, tenant: str, record: Record, quota: int, deadline: float) -> bool:
        """Count a record before it is put; tell whether it counts: not if it is there already.

        Raises `StoreFull`.
        """
        arguments = (2 * self._ttl, self._now, self._now - _PARTS, record.weight, quota)
        call = Call("rs_reserve", quota_key(tenant), arguments)
        if await self._caller.change(call, deadline):
            return True
        if await self._read("rs_get", tenant, record.id, ()):
            return False
        raise StoreFull

    async def _release(self, tenant: str, weight: int, deadline: float) -> None:
        """Count bytes no longer."""
        arguments = (self._now - _PARTS, weight)
        await self._caller.change(Call("rs_release", quota_key(tenant), arguments), deadline)

    @property
    def _ttl(self) -> int:
        return _milliseconds(self._limits.ttl)

    @property
    def _now(self) -> int:
        """The number of the stretch of time that this is."""
        return int(time.time() * _PARTS / self._limits.ttl)

    @contextmanager
    def _counted(self, operation: str) -> Iterator[Outcome]:
        """Count an operation. Raises `StoreUnavailable` if too many are under way."""
        self._under_way += 1
        try:
            with self._operations.counted(operation) as outcome:
                if self._under_way > _MOST_UNDER_WAY:
                    raise StoreUnavailable
                yield outcome
        finally:
            self._under_way -= 1


def _tree_of(tenant: str, record_id: str) -> str:
    return tree_key(tenant, ids.root_of(record_id))


def _milliseconds(seconds: float) -> int:
    return max(1, int(1000 * seconds))


def _draw() -> str:
    """Name a request, so that repeating it is told from doing it twice."""
    return secrets.token_urlsafe(12)


def _path_of(found: Sequence[Any]) -> Path:
    records, size, told = found
    steps = [
        Step(record.decode(), parent.decode(), path)
        for record, parent, path in zip(told[::3], told[1::3], told[2::3], strict=True)
    ]
    return Path(steps, TreeSize(records, size))


def _record_of(record_id: str, found: Sequence[Any]) -> Record:
    parent, path, response, pinned = found
    return Record(record_id, parent.decode(), path, response or b"", pinned is not None)
