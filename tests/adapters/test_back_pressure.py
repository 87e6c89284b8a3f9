"""A reader that does not read: its server stops, and nobody's memory grows."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.adapters.rows import ROWS, Row
from tests.adapters.stage import staged
from tests.adapters.wire import WAIT, Wire
from tests.llama_servers import LlamaAddress

_BUFFERS = 64 * 1024 * 1024  # bytes; more than kernels, proxies and readers hold together
_QUIET = 50  # looks in a row at a wire on which nothing moves


async def standstill(wire: Wire) -> int:
    """Wait until nothing more passes; return how many bytes of the answer did."""
    quiet, passed = 0, -1
    async with asyncio.timeout(WAIT):
        while quiet < _QUIET:
            quiet = quiet + 1 if passed == wire.passed["answer"] else 0
            passed = wire.passed["answer"]
            await asyncio.sleep(0.002)
    return passed


@pytest.mark.parametrize("row", [row for row in ROWS if row.flood], ids=lambda row: row.name)
async def test_a_server_is_read_no_faster_than_its_words_are_taken(
    row: Row, llama_address: LlamaAddress, tiny_weights: Path, tmp_path: Path
) -> None:
    assert row.flood
    flooding = replace(row, behind=row.flood)
    async with staged(flooding, llama_address, tiny_weights, tmp_path) as front:
        await front.backend.start()
        async with aclosing(front.backend.generate(front.endless())) as batches:
            assert await anext(batches)
            assert await standstill(front.wire) < _BUFFERS
            assert [await anext(batches) for _ in range(3)]
        await front.backend.stop()
