"""Cells in memory: what one tenant writes is nobody else's loss."""

import time

from service.store import Cell, CellName
from service.store.memory import MemoryCells


async def test_a_tenant_with_very_many_loses_its_own_oldest_only() -> None:
    cells = MemoryCells(time.monotonic)
    theirs = CellName("alice", "claim", "theirs")
    assert await cells.write(theirs, Cell(1, b"kept"), 60)
    for number in range(10_000):
        assert await cells.write(CellName("bob", "claim", str(number)), Cell(1, b""), 60)
    assert await cells.read(theirs) == Cell(1, b"kept")
    assert await cells.read(CellName("bob", "claim", "0")) is None
    assert await cells.read(CellName("bob", "claim", "9999")) == Cell(1, b"")
