"""The store before a vault: what is fetched, when, how often, and what is made of a vault's failures."""

import asyncio
import dataclasses
from collections.abc import Collection

import pytest

from service import ids
from service.conversation import DurableNode
from service.store import StoreFull, StoreUnavailable
from service.store.durable import DurableStore
from service.store.held import TreeLimits
from service.store.vault import Path, Vault
from tests.service.store.conftest import Replica
from tests.service.store.nodes import compacted, node, said, told, tools


class Watched:
    """A vault that remembers what was fetched, and can be held or be away."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.fetched: list[int] = []
        self.open = asyncio.Event()
        self.open.set()
        self.away = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._vault, name)

    async def path(self, tenant: str, record_id: str, held: Collection[str]) -> Path | None:
        if self.away:
            raise StoreUnavailable
        path = await self._vault.path(tenant, record_id, held)
        await self.open.wait()
        self.fetched.append(len(path.steps) if path else 0)
        return path


@pytest.fixture
async def watched(vault: Vault) -> Watched:
    return Watched(vault)


def replica(watched: Watched, limits: TreeLimits | None = None) -> Replica:
    return Replica(watched, limits)  # type: ignore[arg-type]  # all else is the vault's


async def talk(store: DurableStore, turns: int, parent: DurableNode | None = None) -> DurableNode:
    """Have a conversation, or go on with one; return its last turn."""
    for number in range(turns):
        parent = await store.put(node(str(number), parent))
    assert parent
    return parent


async def test_what_is_held_is_not_fetched(watched: Watched) -> None:
    one = replica(watched)
    last = await talk(one.store, 3)
    assert said(await one.store.get("alice", last.id)) == ["0", "1", "2"]
    assert watched.fetched == []
    assert one.counted("turnwire_hydrate_total", layer="process", result="hit") == 1


async def test_a_cold_replica_fetches_all_at_once_and_a_warm_one_the_tail(watched: Watched) -> None:
    here, there = replica(watched), replica(watched)
    last = await talk(here.store, 20)
    assert len(said(await there.store.get("alice", last.id))) == 20
    last = await talk(here.store, 2, last)
    assert len(said(await there.store.get("alice", last.id))) == 22
    assert watched.fetched == [20, 2]
    assert there.counted("turnwire_hydrated_records_sum") == 22
    assert there.counted("turnwire_hydrate_total", layer="store", result="hit") == 2


async def test_tools_that_are_held_already_go_on(watched: Watched) -> None:
    here, there = replica(watched), replica(watched)
    first = await here.store.put(dataclasses.replace(node(), tools=tools("a")))
    await there.store.get("alice", first.id)
    last = await talk(here.store, 2, first)
    more = dataclasses.replace(node("x", last), tools=tools("b", onto=last.tools))
    await here.store.put(more)
    assert told(await there.store.get("alice", more.id)) == ["a", "b"]
    assert watched.fetched[-1] == 3


async def test_a_node_whose_parent_is_not_held_keeps_its_tools(watched: Watched) -> None:
    first = await replica(watched).store.put(dataclasses.replace(node(), tools=tools("a", "b")))
    second = await replica(watched).store.put(node("2", first))
    third = await replica(watched).store.put(node("3", second))
    assert told(await replica(watched).store.get("alice", third.id)) == ["a", "b"]


async def test_all_who_ask_at_once_wait_for_one_fetch(watched: Watched) -> None:
    last = await talk(replica(watched).store, 5)
    cold = replica(watched)
    found = await asyncio.gather(*(cold.store.get("alice", last.id) for _ in range(50)))
    assert {id(one) for one in found} == {id(found[0])}
    assert watched.fetched == [5]
    assert cold.counted("turnwire_hydrations_shared_total") == 49


async def test_who_stops_waiting_does_not_stop_the_fetch(watched: Watched) -> None:
    last = await talk(replica(watched).store, 2)
    cold = replica(watched)
    watched.open.clear()
    first = asyncio.create_task(cold.store.get("alice", last.id))
    second = asyncio.create_task(cold.store.get("alice", last.id))
    await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    watched.open.set()
    assert said(await second) == ["0", "1"]
    assert watched.fetched == [2]


async def test_a_failure_is_told_and_not_remembered(watched: Watched) -> None:
    last = await talk(replica(watched).store, 2)
    cold = replica(watched)
    watched.away = True
    with pytest.raises(StoreUnavailable):
        await cold.store.get("alice", last.id)
    assert cold.counted("turnwire_hydrate_total", layer="store", result="error") == 1
    watched.away = False
    assert await cold.store.get("alice", last.id)


async def test_what_another_replica_deleted_is_found_out(watched: Watched) -> None:
    here, there = replica(watched), replica(watched, TreeLimits(fresh=0.0))
    first = await talk(here.store, 2)
    assert await there.store.get("alice", first.id)
    assert await there.store.get("alice", first.id)
    assert watched.fetched == [2, 1]
    assert await here.store.delete("alice", first.id)
    assert await there.store.get("alice", first.id) is None
    assert await here.store.get("alice", first.id) is None


async def test_what_is_held_goes_on_while_the_vault_is_away(watched: Watched) -> None:
    one = replica(watched, TreeLimits(fresh=0.0))
    last = await talk(one.store, 2)
    watched.away = True
    assert said(await one.store.get("alice", last.id)) == ["0", "1"]


async def test_a_fetch_that_took_off_before_a_deletion_does_not_undo_it(
    watched: Watched, vault: Vault
) -> None:
    last = await talk(replica(watched).store, 2)
    cold = replica(watched)
    watched.open.clear()
    fetching = asyncio.create_task(cold.store.get("alice", last.id))
    await asyncio.sleep(0)
    deleting = asyncio.create_task(cold.store.delete("alice", last.id))
    async with asyncio.timeout(30.0):
        while await vault.retrieve("alice", last.id):
            await asyncio.sleep(0.001)
    watched.open.set()
    assert await fetching
    assert await deleting
    assert await cold.store.get("alice", last.id) is None


async def test_a_conversation_goes_on_from_a_response_that_was_deleted(watched: Watched) -> None:
    one = replica(watched)
    last = await one.store.put(dataclasses.replace(await talk(one.store, 2), pinned=True))
    tip = await one.store.put(dataclasses.replace(node("tip", last), pinned=True))
    assert await one.store.delete("alice", tip.id)
    assert not await one.store.delete("alice", tip.id)
    for each in (one, replica(watched)):
        assert await each.store.get("alice", tip.id) is None
        assert await each.store.retrieve("alice", tip.id) is None
        assert said(await each.store.tip("alice", tip.id)) == ["0", "1", "tip"]


async def test_a_conversation_goes_on_from_what_was_deleted_elsewhere(watched: Watched) -> None:
    here, there = replica(watched), replica(watched, TreeLimits(fresh=0.0))
    first = await talk(here.store, 2)
    tip = await here.store.put(dataclasses.replace(node("tip", first), pinned=True))
    assert await there.store.get("alice", tip.id)
    assert await here.store.delete("alice", tip.id)
    assert said(await there.store.tip("alice", tip.id)) == ["0", "1", "tip"]
    assert await there.store.get("alice", tip.id) is None


async def test_a_tree_that_is_full_is_crowded_and_what_continues_it_stands_alone(
    watched: Watched,
) -> None:
    one = replica(watched, TreeLimits(records=4))
    last = await talk(one.store, 3)
    assert not last.crowded
    last = await talk(one.store, 1, last)
    assert last.crowded
    after = await talk(one.store, 2, last)
    assert ids.root_of(after.id) != ids.root_of(last.id)
    cold = replica(watched, TreeLimits(records=4))
    assert said(await cold.store.get("alice", after.id)) == ["0", "1", "2", "0", "0", "1"]
    assert watched.fetched == [2]


async def test_forks_find_out_that_their_tree_is_full_by_now(watched: Watched) -> None:
    one = replica(watched, TreeLimits(records=3))
    first = await talk(one.store, 1)
    await talk(one.store, 2, first)
    found = await one.store.get("alice", first.id)
    assert found
    assert found.crowded
    elsewhere = await replica(watched, TreeLimits(records=3)).store.get("alice", first.id)
    assert elsewhere
    assert elsewhere.crowded


async def test_what_is_copied_into_new_trees_stays_in_proportion(vault: Vault) -> None:
    copied: list[int] = []
    limits = TreeLimits(bytes=4_000)
    parent: DurableNode | None = None
    one = Replica(vault, limits)
    for number in range(200):
        text = "".join(ids.response_id(None) for _ in range(10))
        after = await one.store.put(node(text, parent))
        if parent and ids.root_of(after.id) != ids.root_of(parent.id):
            copied.append(after.segment.length)
        parent = after
        if number % 7 == 0:
            one = Replica(vault, limits)  # another replica knows as much
            parent = await one.store.get("alice", parent.id)
    assert parent
    assert len(copied) > 1
    assert sum(copied) < 2 * parent.segment.length
    assert len(said(await Replica(vault).store.get("alice", parent.id))) == 200


async def test_a_compaction_in_the_middle_of_a_tree_stands_alone(watched: Watched) -> None:
    one = replica(watched)
    last = await talk(one.store, 5)
    last = await talk(one.store, 2, await one.store.put(compacted("anew", last)))
    cold = replica(watched)
    assert said(await cold.store.get("alice", last.id)) == ["anew", "0", "1"]
    assert watched.fetched == [3]


async def test_what_was_edited_in_the_vault_is_counted_and_absent(vault: Vault) -> None:
    one = Replica(vault)
    kept = await one.store.put(node())
    record = await vault.retrieve("alice", kept.id)
    assert record
    other = await vault.retrieve("alice", (await one.store.put(node())).id)
    assert other
    await vault.amend("alice", record._replace(path=other.path, response=other.response))
    cold = Replica(vault)
    assert await cold.store.get("alice", kept.id) is None
    assert await cold.store.retrieve("alice", kept.id) is None
    assert cold.counted("turnwire_store_tampered_total") == 2
    assert await cold.store.delete("alice", kept.id)


async def test_another_key_opens_nothing(vault: Vault) -> None:
    kept = await Replica(vault).store.put(node())
    stranger = Replica(vault, key=bytes(32))
    assert await stranger.store.get("alice", kept.id) is None
    assert stranger.counted("turnwire_store_tampered_total") == 1


async def test_a_tenant_may_keep_as_much_as_its_quota(vault: Vault) -> None:
    one = Replica(vault)
    store = DurableStore(vault, one.envelopes, one.held, one.metrics, {"alice": 10}.get)
    with pytest.raises(StoreFull):
        await store.put(node())
    await store.put(node(tenant="bob"))


async def test_nothing_of_a_response_stays_in_memory_but_what_continues_it(vault: Vault) -> None:
    kept = await Replica(vault).store.put(node())
    assert (kept.response_data, kept.trace_data) == (b"", b"")
