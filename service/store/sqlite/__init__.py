"""The vault in a file: durable on one machine, by SQLite in WAL mode. Several processes may share it.

One thread does all of it. Changes that come while others are being made durable make up the next
transaction: each is acknowledged once the disk has it, and many share what that costs.
"""

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path as FilePath
from typing import Any, TypeVar

import structlog

from service.metrics import Metrics
from service.store import Cell, CellName, StoreFull, StoreUnavailable
from service.store.operations import Operations
from service.store.sqlite.file import BadStoreFile, opened
from service.store.sqlite.tables import Tables
from service.store.vault import Orphaned, Path, Record, TreeSize, VaultLimits

log = structlog.get_logger(__name__)
T = TypeVar("T")
Work = Callable[[Tables], Any]

_BATCH = 128
"""Changes of one transaction."""
_WAITING = 4096
"""Changes that may wait."""
_RETRY = 1.0
"""Seconds after a failure in which no put is begun."""
_DEADLINE = 10.0
"""Seconds for anything."""
_ADVICE = (
    "The file in TURNWIRE_STORE_FILE cannot be opened and written: is its directory there, may this "
    "process write to it, is there room, does another process hold it?"
)
_FAILURES = (sqlite3.Error, OSError, BadStoreFile)


class SqliteVault:
    """Keeps records in a file. `clock` tells the time, in seconds since 1970."""

    def __init__(
        self,
        path: FilePath,
        limits: VaultLimits,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._limits = limits
        self._acknowledged = metrics.store_acknowledged.labels("disk")
        self._operations = Operations(metrics)
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, "sqlite")
        self._connection: sqlite3.Connection | None = None
        self._touched: set[int] = set()
        self._waiting: deque[tuple[Work, Future[Any]]] = deque()
        self._sweeping: Future[bool] | None = None
        self._failed = -_RETRY
        self._stopped = False

    async def start(self) -> None:
        """Open the file. Raises `BadStoreFile` for one that is of no use.

        A `StoreUnavailable` says in a note what to do.
        """
        try:
            await asyncio.wrap_future(self._thread.submit(self._open))
        except (sqlite3.Error, OSError) as error:
            log.error("store_file_not_opened", reason=type(error).__name__)  # noqa: TRY400
            unavailable = StoreUnavailable()
            unavailable.add_note(_ADVICE)
            raise unavailable from error

    async def stop(self) -> None:
        """Close the file once all that waits is done."""
        self._stopped = True
        await asyncio.wrap_future(self._thread.submit(self._close))
        self._thread.shutdown(wait=False)

    async def put(self, tenant: str, record: Record, quota: int | None) -> TreeSize:
        """Keep a record; the disk has it when this returns. Raises `StoreFull` and `Orphaned`."""
        work = partial(Tables.put, tenant=tenant, record=record, quota=quota)
        size = await self._counted("put", self._change(work))
        self._acknowledged.inc()
        return size

    async def amend(self, tenant: str, record: Record) -> None:
        """Keep a record, in the place of the one with its id if there is one."""
        with self._operations.counted("amend"):
            await self._change(partial(Tables.amend, tenant=tenant, record=record))

    async def path(self, tenant: str, record_id: str, held: Collection[str]) -> Path | None:
        """Return the records of a conversation, as far as they are not held."""
        work = partial(Tables.path, tenant=tenant, record_id=record_id, held=set(held))
        return await self._counted("hydrate", self._look(work))

    async def retrieve(self, tenant: str, record_id: str) -> Record | None:
        """Return one record."""
        work = partial(Tables.retrieve, tenant=tenant, record_id=record_id)
        return await self._counted("retrieve", self._look(work))

    async def delete(self, tenant: str, record_id: str) -> bool:
        """Forget a record; tell whether it was there."""
        work = partial(Tables.delete, tenant=tenant, record_id=record_id)
        return await self._counted("delete", self._change(work))

    async def read(self, name: CellName) -> Cell | None:
        """Return a cell, or None."""
        return await self._counted("read", self._look(partial(Tables.read, name=name)))

    async def write(self, name: CellName, cell: Cell, ttl: float) -> bool:
        """Write a cell for so many seconds, if what is there is of the revision before."""
        work = partial(Tables.write, name=name, cell=cell, ttl=ttl)
        return await self._counted("write", self._change(work))

    async def drop(self, name: CellName) -> bool:
        """Forget a cell; tell whether it was there."""
        return await self._counted("drop", self._change(partial(Tables.drop, name=name)))

    def check(self) -> None:
        """Raise `StoreUnavailable` for a moment after a failure, then let one try."""
        if time.monotonic() - self._failed < _RETRY:
            raise StoreUnavailable

    def expire(self) -> None:
        """Begin to erase what is too old, step by step between other work."""
        if self._sweeping is None or self._sweeping.done():
            self._sweep()

    def _sweep(self) -> None:
        if not self._stopped:
            self._sweeping = self._queue(Tables.sweep)
            self._sweeping.add_done_callback(self._swept)

    def _swept(self, sweeping: Future[bool]) -> None:
        if not sweeping.exception() and sweeping.result():
            self._sweep()

    async def _counted(self, operation: str, work: Coroutine[Any, Any, T]) -> T:
        """Count and time what the vault is asked for. What comes to nothing is a miss."""
        with self._operations.counted(operation) as outcome:
            return outcome.of(await work)

    async def _change(self, work: Callable[[Tables], T]) -> T:
        """Do work in a transaction; the disk has what it changed when this returns."""
        if len(self._waiting) >= _WAITING:
            raise StoreUnavailable
        return await self._within(self._queue(work))

    async def _look(self, work: Callable[[Tables], T]) -> T:
        """Do work that changes nothing."""
        return await self._within(self._thread.submit(self._looked, work))

    def _queue(self, work: Callable[[Tables], T]) -> Future[T]:
        future: Future[T] = Future()
        self._waiting.append((work, future))
        self._thread.submit(self._commit)  # with nothing left to do if an earlier one took it along
        return future

    def _looked(self, work: Callable[[Tables], T]) -> T:
        try:
            return work(self._tables())
        except _FAILURES as error:
            raise self._unavailable(error) from error

    def _commit(self) -> None:
        """Make one transaction of changes that wait, and then tell who waits for them."""
        batch: list[tuple[Work, Future[Any]]] = []
        while self._waiting and len(batch) < _BATCH:
            work, future = self._waiting.popleft()
            if future.set_running_or_notify_cancel():
                batch.append((work, future))
        if not batch:
            return
        try:
            outcomes = self._committed([work for work, _ in batch])
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            outcomes = [error] * len(batch)
        for (_, future), outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    def _committed(self, works: Sequence[Work]) -> Sequence[object]:
        """Return what came of each of these changes, all of which the disk has now."""
        try:
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            tables = self._tables()
            outcomes = [_outcome(work, tables) for work in works]
            tables.touch()
            connection.execute("COMMIT")
        except _FAILURES as error:
            raise self._unavailable(error) from error
        return outcomes

    def _tables(self) -> Tables:
        return Tables(self._open(), self._limits, self._clock(), self._touched)

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = opened(self._path)
        return self._connection

    def _close(self) -> None:
        if self._connection:
            self._connection.close()  # which takes back what was not committed
            self._connection = None

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        """Begin anew after a failure: whatever was wrong with the file may have been put right."""
        log.warning("store_failed", reason=type(error).__name__)
        self._failed = time.monotonic()
        self._close()
        return StoreUnavailable()

    async def _within(self, future: Future[T]) -> T:
        """Wait for the thread, which a disk may hold up."""
        try:
            async with asyncio.timeout(_DEADLINE):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            self._failed = time.monotonic()
            raise StoreUnavailable from None


def _outcome(work: Work, tables: Tables) -> object:
    """Return what comes of a change, or why it was refused: then it has changed nothing."""
    try:
        return work(tables)
    except (StoreFull, Orphaned) as refused:
        return refused
