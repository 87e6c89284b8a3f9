"""What is let go of leaves the process."""

import sys
from pathlib import Path

import pytest

from service.memory import heap
from service.memory.process import this_process


def test_what_only_holds_itself_is_collected() -> None:
    class Loop:
        gone = 0

        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            Loop.gone += 1

    Loop()
    heap.collect()
    assert Loop.gone == 1


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or Path("/lib/ld-musl-x86_64.so.1").exists(),
    reason="only glibc can be asked",
)
def test_free_memory_is_given_back() -> None:
    process = this_process()
    small = [bytes([number % 256]) * 2000 for number in range(50_000)]
    kept = small[::10_000]  # so that the heap's end does not shrink by itself
    full = process.usage()
    del small
    heap.give_back()
    after = process.usage()
    assert full
    assert after
    assert full.resident - after.resident > 80_000_000
    assert len(kept) == 5
