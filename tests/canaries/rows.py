"""What is run: each store, model and classifier once, every one of them a real one."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.canaries.quoting import MODEL, quoting
from tests.canaries.run import Row
from tests.canaries.stores import WatchedSqlite, watched_valkey
from tests.canaries.trace import SharedTrace
from tests.models import tiny_gguf

Rows = Callable[[], AbstractAsyncContextManager[Row]]


@asynccontextmanager
async def simulated() -> AsyncIterator[Row]:
    """Valkey; a model that does as it is told, so that turns end in all ways there are."""
    with watched_valkey() as store:
        yield Row("Valkey, simulator", store, {"simulator_tokens_per_second": "0"})


@asynccontextmanager
async def embedded() -> AsyncIterator[Row]:
    """SQLite; llama.cpp and a classifier in the process itself."""
    with TemporaryDirectory(prefix="canaries-") as folder:
        weights = tiny_gguf(Path(folder))
        settings = {
            "backend": "embedded",
            "model": str(weights),
            "slots": "2",
            "moderation_embedded": "true",
        }
        yield Row(
            "SQLite, embedded llama.cpp",
            WatchedSqlite(Path(folder, "store")),
            settings,
            model="tiny",
        )


@asynccontextmanager
async def saving() -> AsyncIterator[Row]:
    """The same, and conversations that lose their slots are saved to files in memory."""
    async with embedded() as row:
        settings = {**row.settings, "slots": "1", "saved_conversations": "4"}
        yield Row("SQLite, embedded llama.cpp that saves", row.store, settings, row.model)


@asynccontextmanager
async def failing() -> AsyncIterator[Row]:
    """SQLite; a model server and a classifier that fail, and quote what they were asked."""
    with TemporaryDirectory(prefix="canaries-") as folder:
        async with quoting() as port:
            url = f"http://127.0.0.1:{port}"
            settings = {
                "backend": "chat",
                "backend_url": url,
                "moderation_url": url,
                "moderation_rules_file": "",
            }
            store = WatchedSqlite(Path(folder))
            yield Row("SQLite, servers that quote", store, settings, MODEL, told=[port])


ROWS: dict[str, Rows] = {
    "simulated": simulated,
    "embedded": embedded,
    "saving": saving,
    "failing": failing,
}

ASKED_FOR = {"saving": SharedTrace.name}
"""Where something of what is stored may be found, because the operator has it saved there."""
