"""What every store of conversations promises."""

import asyncio
from dataclasses import replace
from typing import cast

import pytest

from service.cache import Bounds, SegmentCache
from service.conversation import DurableNode, Segment
from service.store import Cell, CellName, ConversationStore, StoredConversation
from service.store.conversations import DurableConversations
from service.store.memory import MemoryCells, MemoryConversations
from service.store.vault import Vault
from tests.service.store.conftest import Replica
from turnwire.v1 import items_pb2


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def memory(
    budget: int = 1 << 20, clock: Clock | None = None
) -> tuple[MemoryConversations, SegmentCache[StoredConversation]]:
    cache = SegmentCache[StoredConversation](Bounds(budget=budget, ttl=60.0), clock or Clock())
    return MemoryConversations(cache), cache


@pytest.fixture
def store(conversations: ConversationStore) -> ConversationStore:
    return conversations


def conv(number: int) -> str:
    return f"conv_{number:016}"


def resp(number: int) -> str:
    return f"resp_{0:016}{number:016}"


def conversation(name: str = conv(1), tenant: str = "alice") -> StoredConversation:
    return StoredConversation(tenant=tenant, id=name, created_at=7, metadata={"topic": "tea"})


def tip(name: str, onto: DurableNode | None = None, size: int = 10) -> DurableNode:
    text = items_pb2.Item(message=items_pb2.Message(role="user", content_text="x" * size))
    return DurableNode(
        tenant="alice",
        id=name,
        parent_id=onto.id if onto else None,
        segment=Segment(onto.segment if onto else None, [text]),
        inputs=1,
        pending_calls=frozenset(),
        response_data=b"",
        trace_data=b"",
    )


def revised(before: StoredConversation, node: DurableNode) -> StoredConversation:
    return replace(before, tip=node, revision=before.revision + 1)


async def test_a_conversation_comes_back_with_its_tip(store: ConversationStore) -> None:
    first = conversation()
    await store.add(first)
    assert await store.replace(revised(first, tip(resp(1))))
    found = await store.get("alice", conv(1))
    assert found
    assert (found.created_at, dict(found.metadata)) == (7, {"topic": "tea"})
    assert found.tip_id == resp(1)


async def test_of_two_that_change_the_same_revision_only_one_succeeds(
    store: ConversationStore,
) -> None:
    first = conversation()
    await store.add(first)
    assert await store.replace(revised(first, tip(resp(1))))
    assert not await store.replace(revised(first, tip(resp(2))))
    found = await store.get("alice", conv(1))
    assert found
    assert found.tip_id == resp(1)


async def test_what_was_deleted_is_not_brought_back_by_a_change(store: ConversationStore) -> None:
    first = conversation()
    await store.add(first)
    assert await store.delete("alice", conv(1))
    assert not await store.replace(revised(first, tip(resp(1))))
    assert await store.get("alice", conv(1)) is None


async def test_absent_foreign_and_deleted_are_the_same(store: ConversationStore) -> None:
    for name in (conv(1), conv(2)):
        await store.add(conversation(name))
    assert await store.delete("alice", conv(2))
    for tenant, name in (("alice", conv(0)), ("bob", conv(1)), ("alice", conv(2))):
        assert await store.get(tenant, name) is None
        assert not await store.delete(tenant, name)


async def test_what_was_said_comes_back_in_order(store: ConversationStore) -> None:
    now = conversation()
    await store.add(now)
    for number in range(3):
        now = revised(now, tip(resp(number), onto=now.tip, size=number + 1))
        assert await store.replace(now)
    found = await store.get("alice", conv(1))
    assert found
    assert found.segment
    path = found.segment.path()
    assert [part.items[0].message.content_text for part in path] == ["x", "xx", "xxx"]
    assert (found.revision, found.unlisted) == (3, 0)


async def test_a_conversation_can_lose_all_its_items(store: ConversationStore) -> None:
    first = replace(conversation(), tip=tip(resp(1)))
    await store.add(first)
    assert await store.replace(replace(first, tip=None, unlisted=1, revision=1))
    found = await store.get("alice", conv(1))
    assert found
    assert (found.tip, found.unlisted, dict(found.metadata)) == (None, 1, {"topic": "tea"})


async def test_of_many_replicas_that_change_the_same_only_one_succeeds(vault: Vault) -> None:
    first = conversation()
    await Replica(vault).conversations.add(first)
    changes = (
        Replica(vault).conversations.replace(revised(first, tip(resp(number))))
        for number in range(8)
    )
    assert sum(await asyncio.gather(*changes)) == 1


async def test_a_conversation_goes_on_when_the_response_it_stands_on_is_deleted(
    vault: Vault,
) -> None:
    one = Replica(vault)
    last = replace(tip(resp(1)), response_data=b"response", pinned=True)
    await one.store.put(last)
    await one.conversations.add(replace(conversation(), tip=last))
    assert await one.store.delete("alice", last.id)
    for each in (one, Replica(vault)):
        assert await each.store.get("alice", last.id) is None
        found = await each.conversations.get("alice", conv(1))
        assert found
        assert found.tip_id == last.id


async def test_a_conversation_whose_cell_was_edited_is_counted_and_absent(vault: Vault) -> None:
    one = Replica(vault)
    for number in (1, 2):
        await one.conversations.add(conversation(conv(number)))
    other = await vault.read(CellName("alice", "conversation", conv(2)))
    assert other
    assert await vault.write(
        CellName("alice", "conversation", conv(1)), Cell(2, other.data), ttl=60.0
    )
    assert await one.conversations.get("alice", conv(1)) is None
    assert one.counted("turnwire_store_tampered_total") == 1


async def test_a_conversation_that_is_read_after_a_while_lives_on() -> None:
    clock = Clock()
    cells = MemoryCells(clock)
    one = Replica(cast("Vault", cells))
    kept = DurableConversations(cells, one.store, one.envelopes, 60.0, clock)
    await kept.add(conversation())
    for _ in range(5):
        clock.now += 40.0
        assert await kept.get("alice", conv(1))
    clock.now += 61.0
    assert await kept.get("alice", conv(1)) is None


async def test_memory_is_let_go_with_what_is_not_used_any_more() -> None:
    clock = Clock()
    store, cache = memory(clock=clock)
    await store.add(conversation())
    clock.now = 61.0
    store.expire()
    assert await store.get("alice", conv(1)) is None
    assert cache.bytes == 0


async def test_memory_lets_the_least_recently_used_conversation_go() -> None:
    store, _ = memory(budget=8000)
    first, second = conversation(conv(1)), conversation(conv(2))
    for one in (first, second):
        await store.add(one)
    await store.get("alice", conv(1))
    assert await store.replace(revised(first, tip(resp(1), size=5000)))
    assert await store.get("alice", conv(1))
    assert await store.get("alice", conv(2)) is None


async def test_the_bytes_of_a_conversation_are_those_of_its_last_revision() -> None:
    (grown, counted), (straight, expected) = memory(), memory()
    now = conversation()
    await grown.add(now)
    last: DurableNode | None = None
    for number in range(5):
        last = tip(resp(number), onto=last, size=100)
        now = revised(now, last)
        assert await grown.replace(now)
    await straight.add(now)
    assert counted.bytes == expected.bytes
    assert await grown.delete("alice", conv(1))
    assert counted.bytes == 0
