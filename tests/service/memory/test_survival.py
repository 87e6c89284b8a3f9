"""A real process with little memory, flooded with conversations: it sheds some of them, and lives."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from tests.service.memory.confined import Enter, address_space, control_group
from tests.service.test_serve import FREE, ROOT, Process

MIB = 1 << 20
DEADLINE = 120.0
CONNECTIONS = 60
TURNS = 4
SAID = MIB
PLACES = {
    "control group": (control_group, 256 * MIB),
    "address space": (address_space, 1200 * MIB),
}
SETTINGS = {
    "TURNWIRE_LOG_LEVEL": "warning",
    "TURNWIRE_SIMULATOR_FIRST_TOKEN_SECONDS": "0",
    "TURNWIRE_SIMULATOR_TOKENS_PER_SECOND": "0",
}


class Confined:
    """A service that may not have much memory."""

    def __init__(self, process: Process) -> None:
        self._process = process

    @property
    def alive(self) -> bool:
        return self._process.process.returncode is None

    async def connect(self) -> ClientConnection | None:
        """Open a connection; None if that is refused."""
        try:
            return await connect(self._process.websocket, proxy=None, max_size=None)
        except InvalidStatus as refusal:
            if refusal.response.status_code != 503:
                raise
            return None

    async def sample(self, name: str, **labels: str) -> float:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            answer = await client.get(f"{self._process.operations}/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@asynccontextmanager
async def confined(enter: Enter) -> AsyncIterator[Confined]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("TURNWIRE_")}
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "service", "serve", "--backend", "simulator"),
        cwd=ROOT,
        env={**own, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", **FREE, **SETTINGS},
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=enter,
    )
    process = Process(started, [])
    try:
        await process.read()
        yield Confined(process)
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def turn(socket: ClientConnection, parent: str = "", said: int = SAID) -> str:
    """Say something long; return the response's id, or the code of what was wrong."""
    await socket.send(_create(parent, said))
    while True:
        event = json.loads(await socket.recv())
        match event["type"]:
            case "response.completed":
                return str(event["response"]["id"])
            case "error":
                return str(event["error"]["code"])


def _create(parent: str, said: int) -> str:
    text = os.urandom(said // 2).hex()
    asked = [{"role": "tool", "content": text}, {"role": "user", "content": "#sim text 5"}]
    create = {"type": "response.create", "model": "simulator", "store": False, "input": asked}
    return json.dumps({**create, "previous_response_id": parent} if parent else create)


async def converse(service: Confined, held: AsyncExitStack) -> ClientConnection | None:
    """Have a fat conversation, and stay connected."""
    if (socket := await service.connect()) is None:
        return None
    held.push_async_callback(socket.close)
    parent = ""
    for _ in range(TURNS):
        said = await turn(socket, parent)
        parent = said if said.startswith("resp") else ""
    return socket


async def flood(service: Confined, held: AsyncExitStack) -> list[ClientConnection]:
    """Have many conversations, a few at a time."""
    few = asyncio.Semaphore(4)

    async def one() -> ClientConnection | None:
        async with few:
            return await converse(service, held)

    sockets = await asyncio.gather(*(one() for _ in range(CONNECTIONS)))
    return [socket for socket in sockets if socket]


async def go_on(service: Confined) -> None:
    """Have a short conversation, as soon as that is accepted."""
    while (socket := await service.connect()) is None:
        await asyncio.sleep(0.5)
    async with socket:
        first = await turn(socket, said=100)
        assert (await turn(socket, first, said=100)).startswith("resp")


async def nothing_held(service: Confined) -> None:
    """Return once no conversation is left in memory."""
    while await service.sample("turnwire_memory_bytes", kind="held"):
        await asyncio.sleep(0.2)


@pytest.mark.parametrize("place", PLACES)
async def test_a_flood_of_fat_conversations_is_shed_and_survived(place: str) -> None:
    make, limit = PLACES[place]
    async with asyncio.timeout(DEADLINE), make(limit) as enter, confined(enter) as service:
        async with AsyncExitStack() as clients:
            sockets = await flood(service, clients)
            assert service.alive
            assert len(sockets) > CONNECTIONS // 2
            assert await service.sample("turnwire_cache_evictions_total") > CONNECTIONS
            assert await service.sample("turnwire_memory_bytes", kind="limit") == limit
            await go_on(service)
        await nothing_held(service)
        assert service.alive
