"""What conversations are said to weigh is what they cost: processes that hold many prove it."""

import sys

import pytest

from tests.benchmarks.memory import SHAPES, weigh

LEAST, MOST = 0.8, 1.25
"""Bytes of memory that one of the ledger's may be."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="weights are those of Linux")
@pytest.mark.parametrize("shape", SHAPES)
def test_the_ledger_says_what_the_process_grows_by(shape: str) -> None:
    assert LEAST < weigh(shape).factor < MOST
