"""A process that puts records into a file as fast as it can, and tells of each that is acknowledged.

`python -m tests.service.store.putting FILE`: it is killed while it does so.
"""

import asyncio
import sys
from itertools import count
from pathlib import Path

from prometheus_client import CollectorRegistry

from service import ids
from service.metrics import Metrics
from service.store.sqlite import SqliteVault
from service.store.vault import Record, VaultLimits


async def main(file: str) -> None:
    """Have eight conversations at once, without an end."""
    vault = SqliteVault(Path(file), VaultLimits(), Metrics(CollectorRegistry()))
    await vault.start()
    await asyncio.gather(*(_talk(vault) for _ in range(8)))


async def _talk(vault: SqliteVault) -> None:
    parent = ""
    for _ in count():
        name = ids.response_id(parent or None)
        await vault.put("alice", Record(name, parent, name.encode() * 50, b"response"), None)
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
        parent = name


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
