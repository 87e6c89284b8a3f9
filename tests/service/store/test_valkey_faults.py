"""What a vault in Valkey does when a real server fails: what was acknowledged is there afterwards."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import pytest

from service.metrics import Metrics
from service.store import Cell, CellName, StoreUnavailable
from service.store.valkey import ValkeyVault
from service.store.valkey.caller import Demands
from tests.service.store.valkey.conftest import metrics as metrics  # noqa: PLC0414  # a fixture
from tests.service.store.valkey.load import DEADLINE, Load, lost
from tests.service.store.valkey.vaults import TENANT, chain, opened, record
from tests.valkeys import ValkeyServer, replicated, running

QUICK = Demands(timeout=0.2, deadline=0.5)
PATIENT = Demands(timeout=0.2, deadline=DEADLINE)
LARGE = 32 * 1024 * 1024
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


async def eventually(check: Callable[[], None]) -> None:
    """Wait until the store is not said to be unavailable any more."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                check()
            except StoreUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


def under(
    server: ValkeyServer, demands: Demands, metrics: Metrics | None = None
) -> AbstractAsyncContextManager[ValkeyVault]:
    """Open a vault over a server."""
    return opened(server.url, demands, metrics=metrics)


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


async def test_a_server_that_was_killed_is_waited_for_and_has_all_it_acknowledged() -> None:
    with running("valkey-9", *DURABLE) as server:
        async with under(server, PATIENT) as vault:
            load = Load(vault)
            for _ in range(3):
                await load.goes_on()
                server.kill()
                server.start()
            await load.goes_on()
            await load.stop()
            assert load.refused == 0
            assert await lost(vault, load.acknowledged) == 0


async def test_a_put_outlasts_a_server_that_answers_nothing_for_a_while() -> None:
    with running("valkey-9") as server:
        async with under(server, PATIENT) as vault:
            server.pause()
            put = asyncio.create_task(vault.put(TENANT, record(), None))
            with pytest.raises(StoreUnavailable):
                await vault.retrieve(TENANT, record().id)
            assert not put.done()
            server.resume()
            assert await put == (1, 5)


async def test_a_server_that_fails_is_left_alone_until_it_is_well(metrics: Metrics) -> None:
    demands = Demands(timeout=2.0, deadline=DEADLINE)
    with running("valkey-9") as server:
        async with under(server, demands, metrics) as vault:
            (only,) = await chain(vault, 1)
            server.pause()
            reads = (vault.retrieve(TENANT, only.id) for _ in range(5))
            told = await asyncio.gather(*reads, return_exceptions=True)
            assert {type(one) for one in told} == {StoreUnavailable}
            assert sample(metrics, "turnwire_store_circuit_open") == 1
            with pytest.raises(StoreUnavailable):
                vault.check()
            async with asyncio.timeout(DEADLINE):  # asking the server each time would take minutes
                for _ in range(100):
                    with pytest.raises(StoreUnavailable):
                        await vault.retrieve(TENANT, only.id)
            server.resume()
            await eventually(vault.check)
            assert await vault.retrieve(TENANT, only.id) == only
            assert sample(metrics, "turnwire_store_circuit_open") == 0


async def test_a_server_that_is_gone_is_said_to_be_in_time() -> None:
    with running("valkey-9") as server:
        async with under(server, QUICK) as vault:
            (only,) = await chain(vault, 1)
            server.kill()
            name = CellName(TENANT, "kind", "name")
            for asked in (
                vault.put(TENANT, record(), None),
                vault.put(TENANT, record(), 1000),
                vault.amend(TENANT, only),
                vault.path(TENANT, only.id, []),
                vault.retrieve(TENANT, only.id),
                vault.delete(TENANT, only.id),
                vault.read(name),
                vault.write(name, Cell(1, b""), 60.0),
                vault.drop(name),
            ):
                async with asyncio.timeout(DEADLINE):
                    with pytest.raises(StoreUnavailable):
                        await asked


async def test_a_full_server_refuses_what_is_new_and_serves_what_is_there(
    metrics: Metrics,
) -> None:
    with running("valkey-9") as server:
        async with under(server, PATIENT, metrics) as vault:
            first, second = await chain(vault, 2)
            server.run("CONFIG SET", "maxmemory", "1mb")
            for _ in range(5):
                with pytest.raises(StoreUnavailable):
                    await vault.put(TENANT, record(second), None)
            operations = "turnwire_store_operations_total"
            assert sample(metrics, operations, operation="put", result="full") == 5
            with pytest.raises(StoreUnavailable):
                vault.check()
            assert await vault.path(TENANT, second.id, [])
            assert await vault.retrieve(TENANT, first.id)
            assert await vault.delete(TENANT, second.id)
            server.run("CONFIG SET", "maxmemory", "0")
            await eventually(vault.check)
            assert await vault.put(TENANT, record(first), None) == (2, 10)


async def test_a_put_waits_until_its_server_may_write_again() -> None:
    with running("valkey-9") as server:
        async with under(server, PATIENT) as vault:
            server.run("REPLICAOF", "127.0.0.1", 1)
            put = asyncio.create_task(vault.put(TENANT, record(), None))
            done, _ = await asyncio.wait([put], timeout=0.3)
            assert not done
            server.run("REPLICAOF", "NO", "ONE")
            assert await put == (1, 5)


async def test_what_its_replica_does_not_have_is_not_acknowledged(metrics: Metrics) -> None:
    only = record()
    quick = Demands(replicas=1, timeout=0.2, deadline=0.7)
    with replicated("valkey-9", 1) as (primary, replica):
        async with under(primary, quick, metrics) as vault:
            replica.pause()
            with pytest.raises(StoreUnavailable):
                await vault.put(TENANT, only, None)
            assert sample(metrics, "turnwire_store_acknowledged_total", level="short") == 1
            assert (
                await vault.retrieve(TENANT, only.id) == only
            )  # it is there, and was not promised


async def moved_on(change: Awaitable[object], server: ValkeyServer) -> None:
    """Wait for a change that goes on with a new connection, where nothing was written before."""
    making = asyncio.ensure_future(change)
    await asyncio.wait([making], timeout=0.2)
    server.run("CLIENT KILL", "TYPE", "NORMAL", "SKIPME", "YES")
    await making


@pytest.mark.parametrize("flavour", ["valkey-9", "redis-8"])
async def test_what_is_put_again_elsewhere_is_no_more_believed_than_the_first_time(
    flavour: str,
) -> None:
    """Without a write on its own connection a `WAIT` is content at once, whatever was written elsewhere."""
    quick = Demands(replicas=1, timeout=0.1, deadline=0.6)
    old, new = CellName(TENANT, "kind", "old"), CellName(TENANT, "kind", "new")
    with replicated(flavour, 1) as (primary, replica):
        async with under(primary, quick) as vault:
            only, another = record(), record()
            await vault.put(TENANT, another, None)
            assert await vault.write(old, Cell(1, b""), 60.0)
            replica.pause()
            for change in (
                vault.put(TENANT, only, None),
                vault.put(TENANT, only, None),
                vault.amend(TENANT, only),
                vault.delete(TENANT, another.id),
                vault.write(new, Cell(1, b""), 60.0),
                vault.drop(old),
            ):
                with pytest.raises(StoreUnavailable):
                    await moved_on(change, primary)
            replica.resume()
            assert await vault.put(TENANT, only, None)


async def test_what_was_acknowledged_by_a_replica_outlives_its_primary() -> None:
    demands = Demands(replicas=1, timeout=0.5, deadline=2.0)
    with replicated("valkey-9", 1) as (primary, replica):
        async with under(primary, demands) as vault:
            load = Load(vault)
            await load.goes_on(300)
            primary.kill()
            replica.run("REPLICAOF", "NO", "ONE")
            await load.stop()
        async with under(replica, Demands()) as vault:
            assert await lost(vault, load.acknowledged) == 0


async def test_only_a_replicas_word_outlives_the_primary() -> None:
    """More is written than the sockets between the two can hold, while the replica reads nothing."""
    sure, unsure, refused = record(), record(path=bytes(LARGE)), record(path=bytes(LARGE))
    safe, fast = Demands(replicas=1, timeout=2.0, deadline=5.0), Demands(timeout=5.0)
    with replicated("valkey-9", 1) as (primary, replica):
        async with under(primary, safe) as vault, under(primary, fast) as hasty:
            await vault.put(TENANT, sure, None)
            replica.pause()
            await hasty.put(TENANT, unsure, None)
            with pytest.raises(StoreUnavailable):
                await vault.put(TENANT, refused, None)
            primary.kill()
        replica.resume()
        replica.run("REPLICAOF", "NO", "ONE")
        async with under(replica, fast) as vault:
            assert await lost(vault, [sure]) == 0
            assert await lost(vault, [unsure, refused]) == 2


async def test_a_change_whose_answer_was_lost_is_made_once() -> None:
    """The server stops after it was told, and goes on when the vault has given up on that answer."""
    name = CellName(TENANT, "kind", "name")
    with running("valkey-9") as server:
        async with under(server, PATIENT) as vault:
            (only,) = await chain(vault, 1)
            for change in (
                vault.write(name, Cell(1, b"mine"), 60.0),
                vault.delete(TENANT, only.id),
                vault.drop(name),
            ):
                server.pause()
                made = asyncio.create_task(change)
                done, _ = await asyncio.wait([made], timeout=0.3)  # longer than one answer may take
                assert not done
                server.resume()
                assert await made
