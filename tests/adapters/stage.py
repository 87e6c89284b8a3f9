"""What a row needs around it: its server, a wire to that, and at the end the proof that nothing is left."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.adapters.front import PATIENT, Front
from tests.adapters.rows import Row
from tests.adapters.servers import Address, Scene
from tests.adapters.wire import WAIT, Wire
from tests.llama_servers import LlamaAddress
from tests.vllm.tap import tapped

_SOON = 0.5  # seconds
_TESTS = str(Path(__file__).parents[1])


@asynccontextmanager
async def staged(
    row: Row, llama: LlamaAddress, weights: Path, folder: Path
) -> AsyncIterator[Front]:
    """Yield the adapter, to be started and stopped: connections, tasks and work must be gone then."""
    async with tapped(urlsplit(llama.url).port or 0) as tap:
        scene = Scene(f"http://127.0.0.1:{tap.port}", llama.key, weights, folder)
        async with row.behind(scene) as address, Wire(address.url).laid() as wire:
            own = asyncio.all_tasks()
            backend = row.make(Address(wire.url, address.key), PATIENT, scene)
            front = Front(row, backend, wire, address, scene, llama, tap)
            yield front
            gc.collect(
                1
            )  # tracebacks of what a test expected keep calls alive, and these a connection
            await wire.empty()
            await _ended(own)
            await front.until_working(0)


async def _left(wire: Wire) -> None:
    """Wait until the adapter has left the wire.

    Tracebacks of what a test expected may keep a gRPC call alive, and that its connection.
    """
    gc.collect(1)
    try:
        async with asyncio.timeout(_SOON):
            await wire.empty()
    except TimeoutError:
        gc.collect()
        await wire.empty()


async def _ended(own: set["asyncio.Task[object]"]) -> None:
    """Wait for all tasks that were begun since, but for the one that waits."""
    async with asyncio.timeout(WAIT):
        while left := {task for task in asyncio.all_tasks() - own if not _stays(task)}:
            await asyncio.wait(left, timeout=0.1)


def _stays(task: "asyncio.Task[object]") -> bool:
    """Tell tasks that are no adapter's: those of tests, and those in which a gRPC server expects calls."""
    return _TESTS in repr(task) or "AioServer" in repr(task) or task is asyncio.current_task()
