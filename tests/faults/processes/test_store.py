"""The store is killed, cut off, frozen, full and slow: what was promised is kept, and others go on."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.processes.customers import Customer, at_work
from tests.faults.processes.tally import Tally
from tests.replicas.clients import ROWS, talking
from tests.replicas.fleet import Fleet, fleet
from tests.replicas.process import Held, until
from tests.replicas.proxy import Proxy
from tests.valkeys import ValkeyServer, cluster, replicated, running

pytestmark = pytest.mark.faults

_SETTINGS = {"store_timeout_seconds": "0.5", "store_deadline_seconds": "3"}
_TURNS = 12
"""Of every client, at least, before a fault, during it and after it."""
_MOST_SECONDS = 40
"""For all clients to be served again after that."""
_MOST_MORE = 64
"""Descriptors, or threads, that a replica may hold more of than before: what waits is bounded."""
_CODE = "store_unavailable"


@dataclass
class Scene:
    """Replicas over a store, and their clients at work."""

    two: Fleet
    stored: Tally
    """Of those who have their responses stored."""
    unstored: Tally
    """Of those who do not."""
    customers: list[Customer]
    others: list[Customer]

    async def all_served(self) -> None:
        """Wait until every client had some turns."""
        await self._served([*self.customers, *self.others])

    async def others_served(self) -> None:
        """Wait until every client that needs no store had some turns."""
        await self._served(self.others)

    async def until_told(self) -> None:
        """Wait until somebody was told that the store cannot be reached."""
        before = self.stored.told[_CODE]

        async def told() -> bool:
            return self.stored.told[_CODE] > before

        await until(told, _MOST_SECONDS)

    async def _served(self, customers: Sequence[Customer]) -> None:
        async with asyncio.timeout(_MOST_SECONDS):
            for _ in range(_TURNS):
                await asyncio.gather(*(one.served() for one in customers))


@asynccontextmanager
async def scene(
    name: str, folder: Path, store_url: str, capsys: pytest.CaptureFixture[str], replicas: int = 0
) -> AsyncIterator[Scene]:
    """Run a service under load; in the end show what became of it, and expect that nothing was lost."""
    stored, unstored = Tally(name), Tally("meanwhile with store=false")
    settings = {**_SETTINGS, "store_replicas": str(replicas)}
    async with fleet(folder, store_url, settings) as two:
        customers = [Customer(row, two.address, stored) for row in [*ROWS, *ROWS]]
        without = {"store": False}
        connected = ("websocket", "grpc")  # over HTTP nothing is continued that is not stored
        others = [Customer(row, two.address, unstored, without) for row in connected]
        before = [replica.process.held() for replica in two.replicas]
        async with at_work([*customers, *others]):
            acting = Scene(two, stored, unstored, customers, others)
            await acting.all_served()
            yield acting
            await acting.all_served()
        await _expect_bounded(two, before)
        await two.restart()  # what was promised must be in the store, and not in memory
        await stored.verify(two.here.address, stored.promised)
    with capsys.disabled():
        stored.show()
        unstored.show()
    stored.expect_kept()
    unstored.expect_kept()
    assert set(stored.told) <= {_CODE}
    assert not unstored.told
    assert stored.cut <= len(customers), "a fault of the store closed connections"


async def _expect_bounded(two: Fleet, before: Sequence[Held]) -> None:
    for replica, then in zip(two.replicas, before, strict=True):

        async def rests(sample: Callable[..., Awaitable[float]] = replica.sample) -> bool:
            return await sample("turnwire_turns_inflight") == 0

        await until(rests, _MOST_SECONDS)
        now = replica.process.held()
        assert now.descriptors <= then.descriptors + _MOST_MORE
        assert now.threads <= then.threads + _MOST_MORE


async def test_a_primary_that_is_killed_takes_nothing_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with replicated("valkey-9", 2) as (primary, heir, other):
        async with Proxy(primary.port).laid() as proxy:
            name, url = "primary killed, replica promoted (WAIT 1)", _url(proxy)
            async with scene(name, tmp_path, url, capsys, replicas=1) as acting:
                primary.kill()
                _promote(heir, other)
                proxy.lead_to(heir.port)
                await acting.others_served()


async def test_a_primary_that_nobody_reaches_and_that_comes_back_takes_nothing_with_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with replicated("valkey-9", 2) as (primary, heir, other):
        async with Proxy(primary.port).laid() as proxy:
            name, url = "primary cut off, replica promoted (WAIT 1)", _url(proxy)
            async with scene(name, tmp_path, url, capsys, replicas=1) as acting:
                primary.pause()
                await acting.until_told()
                _promote(heir, other)
                proxy.lead_to(heir.port)
                await acting.all_served()
                primary.resume()
                primary.replicate(heir)
                await acting.others_served()


async def test_a_primary_without_the_replica_that_is_asked_for_promises_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with replicated("valkey-9", 1) as (primary, replica):
        async with Proxy(primary.port).laid() as proxy:
            name, url = "replica frozen, then primary lost (WAIT 1)", _url(proxy)
            async with scene(name, tmp_path, url, capsys, replicas=1) as acting:
                replica.pause()
                await acting.until_told()
                await acting.others_served()
                replica.resume()


async def test_a_cluster_whose_primary_is_killed_mends_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with cluster("valkey-9") as three:
        async with scene(
            "a cluster's primary killed (WAIT 1)", tmp_path, three.url, capsys, replicas=1
        ) as acting:
            primaries = three.primaries()
            primaries[0].kill()
            await acting.others_served()

            async def led() -> bool:
                return len(await asyncio.to_thread(three.primaries)) == len(primaries)

            await until(led)  # who came back sooner, with an empty memory, would still lead
            await asyncio.to_thread(primaries[0].start)
            await asyncio.to_thread(three.settle)


async def test_a_store_that_stands_still_delays_those_who_need_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running("valkey-9") as valkey:
        async with scene("store stopped and continued", tmp_path, valkey.url, capsys) as acting:
            for _ in range(3):
                valkey.pause()
                await acting.until_told()
                await acting.others_served()
                valkey.resume()
                await acting.all_served()


async def test_a_store_that_is_out_of_memory_keeps_what_it_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running("valkey-9") as valkey:
        async with scene("store out of memory", tmp_path, valkey.url, capsys) as acting:
            valkey.run("CONFIG", "SET", "maxmemory", "1mb")
            await acting.until_told()
            await acting.others_served()
            valkey.run("CONFIG", "SET", "maxmemory", "0")


async def test_a_store_that_is_slow_is_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running("valkey-9") as valkey:
        async with (
            Proxy(valkey.port).laid() as proxy,
            scene("slow store", tmp_path, _url(proxy), capsys) as acting,
        ):
            proxy.delay = 0.1
            await acting.all_served()
            await acting.all_served()
            proxy.delay = 0


async def test_a_network_that_loses_everything_for_a_while_loses_nothing_that_was_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running("valkey-9") as valkey:
        async with (
            Proxy(valkey.port).laid() as proxy,
            scene("store out of reach", tmp_path, _url(proxy), capsys) as acting,
        ):
            proxy.lose()
            await acting.until_told()
            await acting.others_served()
            proxy.find()
            proxy.cut()


async def test_who_needs_the_store_is_told_so_on_every_transport(tmp_path: Path) -> None:
    with running("valkey-9") as valkey:
        async with fleet(tmp_path, valkey.url, _SETTINGS) as two:
            async with talking("websocket", two.here.address) as chat:
                before = await chat.ask(store=True)
            valkey.kill()
            for transport in ROWS:
                async with talking(transport, two.there.address) as chat:
                    refused = await chat.ask(previous_response_id=before.id, store=False)
                    assert refused.error.error.code == _CODE
                    assert refused.error.status == 503
                    unstored = await chat.ask("still here", store=False)
                    assert unstored.text == "still here"
            assert await two.here.ready()
            valkey.start()
            await _expect_known_again(two)


async def _expect_known_again(two: Fleet) -> None:
    """Expect a service whose store lost all it had to say so of the old and to keep the new."""

    async def served() -> bool:
        async with talking("grpc", two.there.address) as chat:
            return (await chat.ask(store=True)).kinds[-1] == "completed"

    await until(served)


def _promote(heir: ValkeyServer, other: ValkeyServer) -> None:
    """Make a replica the primary, as whoever watches over them does, and another one its replica."""
    heir.run("REPLICAOF", "NO", "ONE")
    other.replicate(heir)


def _url(proxy: Proxy) -> str:
    return f"valkey://127.0.0.1:{proxy.port}"
