"""Many lanes, forks at random, and faults: whatever happens, every create is answered, once, in its lane.

A program is a list of acts; the same seed is the same program. For longer than a test run has time:

    python -m tests.faults.lanes --seconds 300

A seed that fails is printed; `--seed` plays it alone, `--lanes` and `--turns` make it smaller.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

import structlog
from prometheus_client import CollectorRegistry

from service.cache import Bounds, NodeCache, SegmentCache, W
from service.conversation import DurableNode, Link
from service.engine import Engine, EngineLimits, Policies
from service.identity import Identity
from service.metrics import Metrics
from service.router import Router
from service.store import Stores
from service.store.memory import MemoryCells, MemoryConversations, MemoryStore
from tests.faults.acts import Act, at_random
from tests.faults.client import Client
from tests.faults.ledger import Ledger
from tests.faults.lines import WAIT, Connect, Lines, in_process
from tests.faults.recital import Reciting
from turnwire.v1 import responses_pb2

_GRACE = 0.1
"""Seconds for what runs when the server goes away."""
_DEFECTS = {"turn_failed", "record_not_kept"}
"""What is logged where something escaped that should not."""
_LAST = tuple(
    Act("chain", lane, 0, None, script, 0)
    for lane in range(8)
    for script in (("#sim text 1 ; stall 9", "#sim slow 0.001 ; text 9")[lane % 2], "#sim text 1")
)
"""What is under way when the server goes away: what can end, what waits, and what has to be cut."""


async def play(engine: Engine, simulator: Reciting, connect: Connect, acts: Sequence[Act]) -> None:
    """Play a program on a fresh engine, then let the server go away in the middle of some more.

    Raises `AssertionError` for whatever should not be. The engine is drained afterwards.
    """
    before = asyncio.all_tasks()
    unhandled: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: unhandled.append(told))
    ledger = Ledger()
    lines = Lines(connect, ledger)
    client = Client(engine, lines, ledger)
    with structlog.testing.capture_logs() as logs:
        await client.begin(await _foreign(engine))
        try:
            for act in acts:
                await client.do(act)
            await client.settle()
            ledger.check(lines.now.number)
            _assert_counted(engine)
            await _go_away(engine, client, lines, ledger)
        finally:
            await lines.close()
    async with asyncio.timeout(WAIT):
        while _under_way(before) or engine._census.open:
            await asyncio.sleep(0)
    assert _DEFECTS.isdisjoint(line["event"] for line in logs)
    assert unhandled == []
    assert simulator.running == 0
    assert engine.responses._state.live._runs == {}


def _under_way(before: set["asyncio.Task[object]"]) -> list[str]:
    """Return the tasks that were not there before, but for the one in which grpc accepts calls."""
    names = map(repr, asyncio.all_tasks() - before)
    return [name for name in names if "AioServer" not in name]


async def _foreign(engine: Engine) -> str:
    """Make a response of another tenant; return its id."""
    settings = responses_pb2.Settings(model="simulator", store=True, background=True)
    create = responses_pb2.CreateResponse(settings=settings, input_text="hello")
    begun = await engine.start(Identity("bob"), create)
    async with asyncio.timeout(WAIT):
        while (await engine.responses.get("bob", begun.id)).status == "in_progress":
            await asyncio.sleep(0)
        while engine._census.open:
            await asyncio.sleep(0)
    return begun.id


async def _go_away(engine: Engine, client: Client, lines: Lines, ledger: Ledger) -> None:
    """Drain the engine while its client asks for more, and see what that is told.

    What is asked last is answered first: then all of it has arrived.
    """
    line = lines.now
    for act in _LAST:
        await client.do(act)
    await client.do(Act("stray", 0, 0, None, "", 0))
    await line.until(lambda: not ledger.oddities[line.number].total())
    ledger.draining = True
    await engine.drain(_GRACE)
    await line.until(lambda: line.endings is not None)
    ledger.check(line.number)


def _assert_counted(engine: Engine) -> None:
    """Compare what caches say they weigh with what they hold."""
    responses, conversations = engine._stores.responses, engine._stores.conversations
    assert isinstance(responses, MemoryStore)
    assert isinstance(conversations, MemoryConversations)
    _assert_weighed(responses._cache)
    _assert_weighed(conversations._cache)
    for connection in engine._census.open:
        if connection._cache:
            _assert_weighed(connection._cache)


def _assert_weighed(cache: SegmentCache[W]) -> None:
    weights = []
    for shelf in cache._shelves.values():
        held = set()
        for entry in (*shelf.tips.values(), *shelf.superseded.values()):
            weights.append(entry.node.weight)
            for end in entry.node.chains:
                link: Link | None = end
                while link is not None:
                    held.add(link)
                    link = link.parent
        assert held == set(shelf.ledger._links)
        weights += [one.weight for one in shelf.ledger._links.values()]
    assert cache.bytes == sum(weights)


class Hesitant(MemoryStore):
    """A store that others get ahead of while it is asked."""

    async def get(self, tenant: str, response_id: str) -> DurableNode | None:
        await asyncio.sleep(0)
        return await super().get(tenant, response_id)

    async def put(self, node: DurableNode) -> DurableNode:
        for _ in range(3):
            await asyncio.sleep(0)
        return await super().put(node)


def _engine(simulator: Reciting) -> Engine:
    bounds = Bounds(budget=1 << 26)
    stores = Stores(
        responses=Hesitant(NodeCache(bounds, time.monotonic)),
        conversations=MemoryConversations(SegmentCache(bounds, time.monotonic)),
        cells=MemoryCells(time.monotonic),
    )
    metrics = Metrics(CollectorRegistry())
    return Engine(Router([simulator]), stores, metrics, EngineLimits(), Policies())


async def play_in_process(acts: Sequence[Act]) -> None:
    """Play a program on an engine of its own."""
    simulator = Reciting()
    engine = _engine(simulator)
    try:
        await play(engine, simulator, in_process(engine), acts)
    finally:
        await engine.drain(0)


def main() -> None:
    """Play seed after seed until the time is over; exit with 1 at the first that fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--turns", type=int, default=50)
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    seed = options.seed or 0
    with suppress(KeyboardInterrupt):
        while True:
            sys.stdout.write(f"seed {seed}\n")
            asyncio.run(play_in_process(at_random(seed, options.lanes, options.turns)))
            if options.seed is not None or time.monotonic() > until:
                return
            seed += 1


if __name__ == "__main__":
    main()
