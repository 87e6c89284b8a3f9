"""What every vault promises. It cannot read what it keeps: here that is any bytes."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from service import ids
from service.store import Cell, CellName, StoreFull
from service.store.vault import Orphaned, Record, Vault, VaultLimits
from tests.service.store.conftest import VAULTS

CELL = CellName("alice", "conversation", "conv_0000000000000001")


def record(parent: Record | None = None, path: bytes = b"p", *, pinned: bool = False) -> Record:
    name = ids.response_id(parent.id if parent else None)
    return Record(name, parent.id if parent else "", path, b"of " + name.encode(), pinned)


async def chain(vault: Vault, length: int) -> Sequence[Record]:
    """Keep a conversation, oldest first."""
    kept: list[Record] = []
    for number in range(length):
        kept.append(record(kept[-1] if kept else None, b"%d" % number))
        await vault.put("alice", kept[-1], None)
    return kept


async def names(vault: Vault, wanted: Record, *held: Record) -> Sequence[str] | None:
    path = await vault.path("alice", wanted.id, [one.id for one in held])
    return [step.id for step in path.steps] if path else None


async def test_a_path_leads_back_to_the_beginning(vault: Vault) -> None:
    kept = await chain(vault, 5)
    path = await vault.path("alice", kept[-1].id, [])
    assert path
    assert [step.path for step in path.steps] == [b"4", b"3", b"2", b"1", b"0"]
    assert [step.parent for step in path.steps] == [*(one.id for one in kept[3::-1]), ""]
    assert path.size.records == 5


async def test_a_path_ends_at_the_nearest_that_is_held(vault: Vault) -> None:
    kept = await chain(vault, 6)
    assert await names(vault, kept[5], kept[1], kept[3]) == [kept[5].id, kept[4].id]
    assert await names(vault, kept[5], kept[4]) == [kept[5].id]


async def test_a_path_of_a_thousand_records_is_whole(vault: Vault) -> None:
    kept = await chain(vault, 1000)
    assert await names(vault, kept[-1]) == [one.id for one in reversed(kept)]


async def test_a_path_that_is_too_long_counts_as_absent(tmp_path: Path) -> None:
    for number, make in enumerate(VAULTS.values()):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with make(directory, VaultLimits(path_records=3)) as vault:
            kept = await chain(vault, 4)
            assert await names(vault, kept[2]) is not None
            assert await names(vault, kept[3]) is None
            assert await names(vault, kept[3], kept[0]) is not None
        async with make(directory, VaultLimits(path_bytes=2)) as vault:
            kept = await chain(vault, 3)
            assert await names(vault, kept[1]) is not None
            assert await names(vault, kept[2]) is None


async def test_a_record_comes_back_as_it_was_put(vault: Vault) -> None:
    first = record()._replace(path=bytes(range(256)), response=bytes(1000), pinned=True)
    await vault.put("alice", first, None)
    assert await vault.retrieve("alice", first.id) == first


async def test_a_record_without_a_response_has_none(vault: Vault) -> None:
    first = record()._replace(response=b"")
    await vault.put("alice", first, None)
    assert await vault.retrieve("alice", first.id) == first


async def test_putting_the_same_again_changes_nothing(vault: Vault) -> None:
    first = record()
    size = await vault.put("alice", first, None)
    assert await vault.put("alice", first._replace(path=b"other"), None) == size
    assert await vault.retrieve("alice", first.id) == first


async def test_a_tenant_has_its_own_records(vault: Vault) -> None:
    first = record()
    await vault.put("alice", first, None)
    await vault.put("bob", first._replace(path=b"bob's"), None)
    assert await vault.delete("bob", first.id)
    assert await vault.path("bob", first.id, []) is None
    assert await vault.retrieve("alice", first.id) == first


async def test_what_was_amended_is_as_it_was_amended(vault: Vault) -> None:
    kept = await chain(vault, 2)
    after = Record(kept[1].id, "", b"alone", b"failed")
    await vault.amend("alice", after)
    assert await vault.retrieve("alice", after.id) == after
    assert await names(vault, after) == [after.id]
    fresh = record()
    await vault.amend("alice", fresh)
    assert await vault.retrieve("alice", fresh.id) == fresh


async def test_what_was_deleted_stays_so(vault: Vault) -> None:
    first, *_, last = await chain(vault, 3)
    for gone in (first, last):
        assert await vault.delete("alice", gone.id)
        assert not await vault.delete("alice", gone.id)
        assert await vault.retrieve("alice", gone.id) is None
        assert await names(vault, gone) is None
    await vault.put("alice", first, None)
    await vault.amend("alice", first)
    assert await vault.retrieve("alice", first.id) is None


async def test_a_deleted_record_stays_on_the_paths_of_what_continued_it(vault: Vault) -> None:
    kept = await chain(vault, 3)
    assert await vault.delete("alice", kept[1].id)
    assert await names(vault, kept[2]) == [one.id for one in reversed(kept)]


async def test_a_deleted_record_is_erased_with_the_last_that_continued_it(vault: Vault) -> None:
    kept = await chain(vault, 3)
    fork = record(kept[1])
    size = await vault.put("alice", fork, None)
    for gone in (kept[1], kept[2]):
        assert await vault.delete("alice", gone.id)
    assert await names(vault, fork) == [fork.id, kept[1].id, kept[0].id]
    assert await vault.delete("alice", fork.id)
    path = await vault.path("alice", kept[0].id, [])
    assert path
    assert (size.records, path.size.records) == (4, 1)


async def test_a_deleted_record_is_erased_when_what_continued_it_stands_alone(vault: Vault) -> None:
    first, second = await chain(vault, 2)
    assert await vault.delete("alice", first.id)
    await vault.amend("alice", second._replace(parent=""))
    path = await vault.path("alice", second.id, [])
    assert path
    assert path.size.records == 1


async def test_a_pinned_record_stays_on_the_paths_of_what_continues_it_later(vault: Vault) -> None:
    first = record(pinned=True)
    await vault.put("alice", first, None)
    assert await vault.delete("alice", first.id)
    second = record(first)
    await vault.put("alice", second, None)
    assert await names(vault, second) == [second.id, first.id]
    assert await vault.retrieve("alice", first.id) is None


async def test_what_would_continue_nothing_is_refused_and_leaves_no_trace(vault: Vault) -> None:
    first, second = await chain(vault, 2)
    assert await vault.delete("alice", second.id)
    orphan = record(second)
    with pytest.raises(Orphaned):
        await vault.put("alice", orphan, None)
    with pytest.raises(Orphaned):
        await vault.put("bob", record(first), None)
    assert await vault.retrieve("alice", orphan.id) is None
    path = await vault.path("alice", first.id, [])
    assert path
    assert path.size.records == 1


async def test_a_tenant_keeps_no_more_than_it_may(vault: Vault) -> None:
    first = record(path=bytes(1000))
    await vault.put("alice", first, 2000)
    with pytest.raises(StoreFull):
        await vault.put("alice", record(path=bytes(1000)), 2000)
    await vault.put("alice", record(path=bytes(1000)), 4000)
    await vault.put("bob", record(path=bytes(1000)), 2000)


async def test_of_many_changes_at_once_each_is_made(vault: Vault) -> None:
    first = record()
    await vault.put("alice", first, None)
    forks = [record(first) for _ in range(50)]
    await asyncio.gather(*(vault.put("alice", fork, None) for fork in forks))
    for fork in forks:
        assert await names(vault, fork) == [fork.id, first.id]


async def test_a_cell_is_written_by_one_of_those_who_read_the_same(vault: Vault) -> None:
    writes = [vault.write(CELL, Cell(1, b"%d" % number), 60.0) for number in range(8)]
    assert sorted(await asyncio.gather(*writes)) == [False] * 7 + [True]
    now = await vault.read(CELL)
    assert now
    assert await vault.write(CELL, Cell(2, b"second"), 60.0)
    assert not await vault.write(CELL, Cell(2, b"late"), 60.0)
    assert not await vault.write(CELL, Cell(4, b"early"), 60.0)
    assert await vault.read(CELL) == Cell(2, b"second")


async def test_a_cell_that_was_dropped_is_begun_again(vault: Vault) -> None:
    assert not await vault.drop(CELL)
    assert await vault.write(CELL, Cell(1, b"one"), 60.0)
    assert await vault.read(CELL._replace(tenant="bob")) is None
    assert await vault.read(CELL._replace(kind="turn")) is None
    assert await vault.drop(CELL)
    assert await vault.read(CELL) is None
    assert not await vault.write(CELL, Cell(2, b"two"), 60.0)
    assert await vault.write(CELL, Cell(1, b"anew"), 60.0)


async def test_whatever_a_cell_is_called_it_is_one_of_its_own(vault: Vault) -> None:
    odd = ["", "a:b", "a", "{x}", "\0", "é", "x" * 500, "'; --"]
    for number, name in enumerate(odd):
        assert await vault.write(CellName("a:b", "kind", name), Cell(1, b"%d" % number), 60.0)
        assert await vault.write(CellName("a", "kind", name), Cell(1, b"other"), 60.0)
    for number, name in enumerate(odd):
        assert await vault.read(CellName("a:b", "kind", name)) == Cell(1, b"%d" % number)


async def test_a_vault_that_works_says_so(vault: Vault) -> None:
    vault.check()
    vault.expire()
