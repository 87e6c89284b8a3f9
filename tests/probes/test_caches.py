"""What one tenant asks for leaves no trace in another's caches, and finds none there."""

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from service.metrics import Metrics
from service.store.sqlite import SqliteVault
from service.store.vault import Path as Fetched
from service.store.vault import Vault, VaultLimits
from tests.probes.customer import Json, customer
from tests.probes.house import house
from tests.service.store.conftest import Replica
from tests.service.store.nodes import node

_PROMPT = "the same long prompt of two tenants " * 40


class Held:
    """A vault that remembers who fetched, and can be held at it."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.fetched: list[str] = []
        self.begun = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    def __getattr__(self, name: str) -> object:
        return getattr(self._vault, name)

    async def path(self, tenant: str, record_id: str, held: Collection[str]) -> Fetched | None:
        self.fetched.append(tenant)
        self.begun.set()
        if tenant == "alice":
            await self.open.wait()
        return await self._vault.path(tenant, record_id, held)


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Held]:
    metrics = Metrics(CollectorRegistry())
    vault = SqliteVault(tmp_path / "turnwire.db", VaultLimits(), metrics)
    await vault.start()
    yield Held(vault)
    await vault.stop()


def _replica(held: Held) -> Replica:
    return Replica(held)  # type: ignore[arg-type]  # all else is the vault's


async def test_a_probe_warms_nothing_of_anothers(held: Held) -> None:
    kept = await _replica(held).store.put(node())
    cold = _replica(held)
    for _ in range(3):
        assert await cold.store.get("bob", kept.id) is None
    assert len(cold.held.cache) == 0
    assert await cold.store.get("alice", kept.id)
    assert held.fetched == ["bob"] * 3 + ["alice"]


async def test_a_probe_pushes_nothing_of_anothers_out(held: Held) -> None:
    warm = _replica(held)
    kept = await warm.store.put(node())
    before = warm.held.cache.bytes
    for _ in range(200):
        assert await warm.store.get("bob", kept.id) is None
        assert await warm.store.retrieve("bob", kept.id) is None
        assert not await warm.store.delete("bob", kept.id)
    held.fetched.clear()
    assert await warm.store.get("alice", kept.id)
    assert held.fetched == []
    assert warm.held.cache.bytes == before


async def test_who_probes_does_not_wait_for_what_another_fetches(held: Held) -> None:
    kept = await _replica(held).store.put(node())
    cold = _replica(held)
    held.open.clear()
    fetching = asyncio.create_task(cold.store.get("alice", kept.id))
    async with asyncio.timeout(10):
        await held.begun.wait()
        assert await cold.store.get("bob", kept.id) is None
    assert not fetching.done()
    held.open.set()
    assert await fetching
    assert cold.counted("turnwire_hydrations_shared_total") == 0


async def test_what_another_tenant_said_is_not_in_ones_part_of_the_models_cache(
    tmp_path: Path,
) -> None:
    async with (
        house("memory", tmp_path) as place,
        customer(place.address, place.alice) as alice,
        customer(place.address, place.bob) as bob,
    ):
        assert _cached(await alice.ask(input=_PROMPT)) == 0
        assert _cached(await alice.ask(input=_PROMPT)) > 0
        assert _cached(await bob.ask(input=_PROMPT)) == 0


def _cached(response: Json) -> int:
    tokens: int = response["usage"]["input_tokens_details"]["cached_tokens"]
    return tokens
