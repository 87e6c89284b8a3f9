"""Each row in turn, as `row`; its adapter, in front of its server, as `adapter`."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.adapters.front import Front
from tests.adapters.rows import ROWS, Row
from tests.adapters.stage import staged
from tests.llama_servers import LlamaAddress, llama_address, tiny_weights

__all__ = ["llama_address", "tiny_weights"]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "asks(*behaviours): of rows that can, with the others' reasons"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what a row cannot be asked, with its reason."""
    for item in items:
        asked = item.get_closest_marker("asks")
        row = item.callspec.params.get("row") if hasattr(item, "callspec") else None
        if asked and isinstance(row, Row):
            for reason in [row.cannot[one] for one in asked.args if one in row.cannot][:1]:
                item.add_marker(pytest.mark.skip(reason=f"{row.name}: {reason}"))


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request: pytest.FixtureRequest) -> Row:
    chosen: Row = request.param
    return chosen


@pytest.fixture
async def adapter(
    row: Row, llama_address: LlamaAddress, tiny_weights: Path, tmp_path: Path
) -> AsyncIterator[Front]:
    async with staged(row, llama_address, tiny_weights, tmp_path) as front:
        await front.backend.start()
        yield front
        await front.backend.stop()
