"""A real service with two tenants: Alice, who has things, and Bob, who would like to know of them."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from service.identity.keys import new_key
from tests.replicas.ports import free_ports
from tests.replicas.process import Process, ended
from tests.replicas.replica import PORTS, Address, Replica, sealing_keys
from tests.valkeys import running

Kept = Literal["memory", "sqlite", "valkey"]
STORES: tuple[Kept, ...] = get_args(Kept)
_STALL = "3600"
"""Seconds for which a model may say nothing: what Alice leaves running runs for as long as the probes."""


@dataclass(frozen=True, slots=True)
class House:
    """Where the service listens, and the keys of its two tenants."""

    address: Address
    alice: str
    bob: str


@asynccontextmanager
async def house(
    store: Kept, folder: Path, settings: Mapping[str, str] | None = None
) -> AsyncIterator[House]:
    """Run the service over a store for as long as the context lasts."""
    keys = _Keys.written(folder)
    own = {"api_keys_file": str(keys.file), "stall_seconds": _STALL, **(settings or {})}
    with _kept_in(store, folder) as place:
        replica = Replica("turnwire", folder, free_ports(PORTS), {**own, **place})
        async with ended(replica.process):
            await replica.start()
            yield House(replica.address, keys.alice, keys.bob)


@asynccontextmanager
async def leaky_house(microseconds: float, folder: Path) -> AsyncIterator[House]:
    """Run a service that takes longer about what others have. It has no gRPC."""
    keys, [port] = _Keys.written(folder), free_ports(1)
    options = ["--keys", str(keys.file), "--http", str(port), "--microseconds", str(microseconds)]
    command = [sys.executable, "-m", "tests.probes.planted", *options]
    process = Process(command, folder / "leaky.log", dict(os.environ))
    async with ended(process):
        process.start()
        await process.until(partial(_listens, port))
        yield House(Address(port, 0), keys.alice, keys.bob)


class _Keys(NamedTuple):
    file: Path
    alice: str
    bob: str

    @classmethod
    def written(cls, folder: Path) -> "_Keys":
        """Write a file with a key for each tenant."""
        (alice, one), (bob, two) = new_key("alice"), new_key("bob")
        file = folder / "api-keys"
        file.write_text(f"{one}\n{two}\n")
        return cls(file, alice, bob)


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@contextmanager
def _kept_in(store: Kept, folder: Path) -> Iterator[Mapping[str, str]]:
    """Yield the settings of a store that is there for as long as the context lasts."""
    settings: dict[str, str] = {"store": store}
    with ExitStack() as stack:
        if store != "memory":
            settings["sealing_keys_file"] = str(sealing_keys(folder))
        if store == "sqlite":
            settings["store_file"] = str(folder / "turnwire.db")
        if store == "valkey":
            settings["store_url"] = stack.enter_context(running("valkey-9")).url
        yield settings
