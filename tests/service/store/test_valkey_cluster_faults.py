"""A cluster whose servers die, stop and change places under load: nothing acknowledged is lost."""

from asyncio import to_thread
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from service.ids import root_of
from service.store.valkey.caller import Demands
from service.store.valkey.keys import tree_key
from tests.service.store.valkey.load import DEADLINE, Load, lost
from tests.service.store.valkey.vaults import TENANT, chain, opened, record
from tests.valkeys import ValkeyCluster, ValkeyServer, cluster, until

pytestmark = pytest.mark.faults

DEMANDS = Demands(replicas=1, timeout=0.5, deadline=DEADLINE)


@pytest.fixture
def servers() -> Iterator[ValkeyCluster]:
    with cluster("valkey-9", shards=3, replicas=1) as made:
        yield made


def leads(server: ValkeyServer) -> bool:
    with server.client() as client:
        return bool(client.info("replication")["role"] == "master")


async def changed_places(servers: ValkeyCluster, old: ValkeyServer, new: ValkeyServer) -> None:
    """Wait, while the load goes on, until a shard is led by another and the cluster is well."""
    await to_thread(until, lambda: leads(new), "the replica leads")
    if old.process is None:
        await to_thread(
            old.start
        )  # without what it had: it fetches that from the one that leads now
    await to_thread(until, lambda: not leads(old), "the other follows")
    await to_thread(servers.settle)


def slots_in(server: ValkeyServer, most: int) -> set[int]:
    """Return slots of a server that have keys."""
    keys = server.run("KEYS", "*")[:most]
    return {int(server.run("CLUSTER KEYSLOT", key)) for key in keys}


def move_keys(slot: int, source: ValkeyServer, target: ValkeyServer) -> None:
    while keys := source.run("CLUSTER GETKEYSINSLOT", slot, 100):
        source.run("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)


@asynccontextmanager
async def moving(slot: int, source: ValkeyServer, target: ValkeyServer) -> AsyncIterator[None]:
    """Let a slot be on its way for as long as the context lasts, and then be elsewhere."""
    old, new = (server.run("CLUSTER MYID").decode() for server in (source, target))
    target.run("CLUSTER SETSLOT", slot, "IMPORTING", old)
    source.run("CLUSTER SETSLOT", slot, "MIGRATING", new)
    yield
    for server in (target, source):
        server.run("CLUSTER SETSLOT", slot, "NODE", new)


async def test_a_failover_on_purpose_refuses_nothing(servers: ValkeyCluster) -> None:
    async with opened(servers.url, DEMANDS) as vault:
        load = Load(vault)
        await load.goes_on()
        for primary, replica in servers.shards:
            await to_thread(replica.run, "CLUSTER FAILOVER")
            await changed_places(servers, primary, replica)
            await load.goes_on()
        await load.stop()
        assert load.refused == 0
        assert await lost(vault, load.acknowledged) == 0


async def test_primaries_that_are_killed_lose_nothing(servers: ValkeyCluster) -> None:
    async with opened(servers.url, DEMANDS) as vault:
        load = Load(vault)
        await load.goes_on()
        for primary, replica in servers.shards:
            await to_thread(primary.kill)
            await changed_places(servers, primary, replica)
            await load.goes_on()
        await load.stop()
        assert await lost(vault, load.acknowledged) == 0


async def test_a_primary_that_was_away_loses_nothing_when_it_is_back(
    servers: ValkeyCluster,
) -> None:
    """It takes itself for the primary until it hears better, and is believed by who has not heard."""
    async with opened(servers.url, DEMANDS) as vault:
        load = Load(vault)
        await load.goes_on()
        primary, replica = servers.shards[0]
        primary.pause()
        await to_thread(until, lambda: leads(replica), "the replica leads")
        primary.resume()
        await changed_places(servers, primary, replica)
        await load.goes_on(200)
        await load.stop()
        assert await lost(vault, load.acknowledged) == 0


async def test_slots_that_move_are_followed(servers: ValkeyCluster) -> None:
    """They go to another shard one by one, while their keys are read and written."""
    async with opened(servers.url, DEMANDS) as vault:
        load = Load(vault, clients=8)
        await load.goes_on(400)
        tree = await chain(vault, 2)
        key = tree_key(TENANT, root_of(tree[0].id))
        source = servers.shard_of(key)[0]
        target = next(shard[0] for shard in servers.shards if shard[0] is not source)
        for slot in {*slots_in(source, 100), int(source.run("CLUSTER KEYSLOT", key))}:
            async with moving(slot, source, target):
                await load.goes_on(5)
                await to_thread(move_keys, slot, source, target)
                await load.goes_on(5)
                tree.append(record(tree[-1]))
                await vault.put(TENANT, tree[-1], None)
                assert await lost(vault, tree) == 0
        await load.stop()
        assert load.refused == 0
        assert await lost(vault, [*load.acknowledged, *tree]) == 0
