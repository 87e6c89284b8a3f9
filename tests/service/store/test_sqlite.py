"""What only a vault in a file can show: the file, the disk, and other processes."""

import asyncio
import os
import resource
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service import ids
from service.metrics import Metrics
from service.store import Cell, CellName, StoreUnavailable
from service.store.sqlite import SqliteVault
from service.store.sqlite.file import BadStoreFile
from service.store.vault import Record, VaultLimits

ROOT = Path(__file__).parents[3]
KILLS = 20
DEADLINE = 30.0
CELL = CellName("alice", "conversation", "conv_0000000000000001")


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def opened(
    directory: Path, clock: Clock | None = None, metrics: Metrics | None = None
) -> AsyncIterator[SqliteVault]:
    vault = SqliteVault(
        directory / "store.db",
        VaultLimits(ttl=100.0),
        metrics or Metrics(CollectorRegistry()),
        clock or Clock(),
    )
    await vault.start()
    try:
        yield vault
    finally:
        await vault.stop()


@contextmanager
def beside(directory: Path) -> Iterator[sqlite3.Connection]:
    """Look at the file, or hold it, as another process would."""
    with closing(sqlite3.connect(directory / "store.db", isolation_level=None)) as connection:
        yield connection


def record(parent: str = "", path: bytes = b"path") -> Record:
    return Record(ids.response_id(parent or None), parent, path, b"response")


async def swept(vault: SqliteVault) -> None:
    vault.expire()
    assert vault._sweeping
    async with asyncio.timeout(DEADLINE):
        while not vault._sweeping.done():
            await asyncio.sleep(0.001)
    await vault.write(CELL, Cell(1, b""), 1.0)  # behind what the last step began
    assert vault._sweeping.done()


def rows(directory: Path, table: str) -> int:
    with beside(directory) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


async def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    first = record()
    async with opened(tmp_path) as vault:
        await vault.put("alice", first, None)
        await vault.write(CELL, Cell(1, b"cell"), 60.0)
    async with opened(tmp_path) as vault:
        assert await vault.retrieve("alice", first.id) == first
        assert await vault.read(CELL) == Cell(1, b"cell")


async def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as vault:
        await vault.put("alice", record(), None)
        modes = _modes(tmp_path)
    assert modes == dict.fromkeys(["store.db", "store.db-wal", "store.db-shm"], 0o600)


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    async with opened(tmp_path):
        pass
    with beside(tmp_path) as connection:
        connection.execute("PRAGMA user_version = 2")
    with pytest.raises(BadStoreFile, match="newer version of Turnwire"):
        async with opened(tmp_path):
            pass


async def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    with beside(tmp_path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    with pytest.raises(BadStoreFile, match="not Turnwire's"):
        async with opened(tmp_path):
            pass
    (tmp_path / "store.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(BadStoreFile, match="not an SQLite database"):
        async with opened(tmp_path):
            pass


async def test_a_file_that_cannot_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable) as told:
        async with opened(tmp_path / "absent"):
            pass
    assert "TURNWIRE_STORE_FILE" in " ".join(told.value.__notes__)


async def test_two_processes_share_a_file(tmp_path: Path) -> None:
    async with opened(tmp_path) as here, opened(tmp_path) as there:
        first = record()
        await here.put("alice", first, None)
        forks = [record(first.id) for _ in range(40)]
        vaults = [here, there] * 20
        await asyncio.gather(
            *(vault.put("alice", fork, None) for vault, fork in zip(vaults, forks, strict=True))
        )
        for fork in forks:
            path = await here.path("alice", fork.id, [])
            assert path
            assert path.size.records == 41


async def test_many_puts_share_a_transaction(tmp_path: Path) -> None:
    async with opened(tmp_path) as vault:
        with beside(tmp_path) as connection:
            connection.execute("BEGIN IMMEDIATE")  # until all the others wait behind the first
            first = asyncio.create_task(vault.put("alice", record(), None))
            await _until(lambda: not vault._waiting, first)
            puts = [asyncio.create_task(vault.put("alice", record(), None)) for _ in range(99)]
            await _until(lambda: len(vault._waiting) == 99, first)
            before = _commits(tmp_path)
            connection.execute("COMMIT")
        await asyncio.gather(first, *puts)
        assert _commits(tmp_path) - before <= 2
        assert rows(tmp_path, "records") == 100


async def test_a_put_that_nobody_waits_for_any_more_is_not_begun(tmp_path: Path) -> None:
    async with opened(tmp_path) as vault:
        with beside(tmp_path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            first = asyncio.create_task(vault.put("alice", record(), None))
            await _until(lambda: not vault._waiting, first)
            second = asyncio.create_task(vault.put("alice", record(), None))
            await _until(lambda: len(vault._waiting) == 1, second)
            second.cancel()
            with pytest.raises(asyncio.CancelledError):
                await second
            connection.execute("COMMIT")
        await first
        assert rows(tmp_path, "records") == 1


async def test_a_full_disk_is_told_and_counted_and_gets_over(tmp_path: Path) -> None:
    metrics = Metrics(CollectorRegistry())
    async with opened(tmp_path, metrics=metrics) as vault:
        first = record()
        await vault.put("alice", first, None)
        with _small_files(tmp_path):
            with pytest.raises(StoreUnavailable):
                await vault.put("alice", record(path=os.urandom(1 << 20)), None)
            with pytest.raises(StoreUnavailable):
                vault.check()
        large = record(path=os.urandom(1 << 20))
        await vault.put("alice", large, None)
        for kept in (first, large):
            assert await vault.retrieve("alice", kept.id) == kept
    counted = {"operation": "put", "result": "unavailable"}
    assert metrics.registry.get_sample_value("turnwire_store_operations_total", counted) == 1


async def test_a_file_that_is_locked_is_waited_for_and_then_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as vault:
        with beside(tmp_path) as connection:
            connection.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable):
                await vault.put("alice", record(), None)
            connection.execute("COMMIT")
        await vault.put("alice", record(), None)


async def test_a_tree_lives_as_long_as_it_is_used(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as vault:
        used, unused = record(), record()
        for one in (used, unused):
            await vault.put("alice", one, None)
        for _ in range(5):
            clock.now += 90.0
            assert await vault.path("alice", used.id, [])
            await swept(vault)
        assert await vault.retrieve("alice", unused.id) is None
        assert rows(tmp_path, "records") == rows(tmp_path, "responses") == 1


async def test_what_is_too_old_is_absent_before_it_is_swept(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as vault:
        first = record(path=b"old")
        await vault.put("alice", first, None)
        await vault.write(CELL, Cell(1, b"old"), 50.0)
        clock.now += 110.0
        assert await vault.path("alice", first.id, []) is None
        assert await vault.retrieve("alice", first.id) is None
        assert not await vault.delete("alice", first.id)
        assert await vault.read(CELL) is None
        assert await vault.write(CELL, Cell(1, b"new"), 50.0)
        size = await vault.put("alice", first._replace(path=b"new"), None)
        assert size.records == 1


async def test_sweeping_goes_on_until_nothing_old_is_left(tmp_path: Path) -> None:
    clock = Clock()
    async with opened(tmp_path, clock) as vault:
        await asyncio.gather(*(vault.put("alice", record(), 10_000) for _ in range(50)))
        clock.now += 110.0
        await swept(vault)
        for table in ("trees", "records", "responses"):
            assert rows(tmp_path, table) == 0
        await vault.put("alice", record(path=bytes(9000)), 10_000)  # the quota is free again


async def test_what_was_deleted_is_overwritten(tmp_path: Path) -> None:
    canary = os.urandom(32)
    async with opened(tmp_path) as vault:
        first = record(path=canary * 10)._replace(response=canary)
        await vault.put("alice", first, None)
        assert await vault.delete("alice", first.id)
    assert canary not in _content(tmp_path)


async def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for _ in range(KILLS):
        acknowledged += await _put_and_kill(tmp_path / "store.db")
    assert len(acknowledged) > KILLS
    async with opened(tmp_path, Now()) as vault:
        for name in acknowledged:
            assert await vault.path("alice", name, []), "lost"
            assert await vault.retrieve("alice", name), "lost"


class Now(Clock):
    """The time of the process that was killed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0


async def _put_and_kill(file: Path) -> list[str]:
    """Have a process put until some are acknowledged, kill it, and return what it told of."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.service.store.putting", str(file),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    async with asyncio.timeout(DEADLINE):
        lines = [await process.stdout.readline() for _ in range(10)]
        process.kill()
        lines += (await process.stdout.read()).splitlines(keepends=True)
        await process.wait()
    return [line.decode().strip() for line in lines if line.endswith(b"\n")]


async def _until(holds: Callable[[], bool], begun: asyncio.Task[object]) -> None:
    """Wait until something holds, once a task has begun."""
    async with asyncio.timeout(DEADLINE):
        await asyncio.sleep(0)
        while not holds():
            assert not begun.done()
            await asyncio.sleep(0.001)


def _modes(directory: Path) -> dict[str, int]:
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}


def _content(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in directory.iterdir())


def _commits(directory: Path) -> int:
    """Count the transactions in the log: the last frame of each says how large the file is after it."""
    log = (directory / "store.db-wal").read_bytes()
    frame = 24 + int.from_bytes(log[8:12])
    return sum(any(log[place + 4 : place + 8]) for place in range(32, len(log), frame))


@contextmanager
def _small_files(directory: Path) -> Iterator[None]:
    """Let no file grow: to a process that is as good as a full disk."""
    size = max(path.stat().st_size for path in directory.iterdir())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
