"""What every store of conversations promises."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from service.cache import Bounds, SegmentCache
from service.conversation import DurableNode, Segment
from service.store import ConversationStore, StoredConversation
from service.store.memory import MemoryConversations
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


STORES: dict[str, Callable[[], ConversationStore]] = {"memory": lambda: memory()[0]}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> ConversationStore:
    return STORES[request.param]()


def conversation(name: str = "conv_1", tenant: str = "alice") -> StoredConversation:
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
    assert await store.replace(revised(first, tip("resp_1")))
    found = await store.get("alice", "conv_1")
    assert found
    assert (found.created_at, dict(found.metadata)) == (7, {"topic": "tea"})
    assert found.tip_id == "resp_1"


async def test_of_two_that_change_the_same_revision_only_one_succeeds(
    store: ConversationStore,
) -> None:
    first = conversation()
    await store.add(first)
    assert await store.replace(revised(first, tip("resp_1")))
    assert not await store.replace(revised(first, tip("resp_2")))
    found = await store.get("alice", "conv_1")
    assert found
    assert found.tip_id == "resp_1"


async def test_what_was_deleted_is_not_brought_back_by_a_change(store: ConversationStore) -> None:
    first = conversation()
    await store.add(first)
    assert await store.delete("alice", "conv_1")
    assert not await store.replace(revised(first, tip("resp_1")))
    assert await store.get("alice", "conv_1") is None


async def test_absent_foreign_and_deleted_are_the_same(store: ConversationStore) -> None:
    for name in ("conv_1", "conv_2"):
        await store.add(conversation(name))
    assert await store.delete("alice", "conv_2")
    for tenant, name in (("alice", "conv_0"), ("bob", "conv_1"), ("alice", "conv_2")):
        assert await store.get(tenant, name) is None
        assert not await store.delete(tenant, name)


async def test_memory_is_let_go_with_what_is_not_used_any_more() -> None:
    clock = Clock()
    store, cache = memory(clock=clock)
    await store.add(conversation())
    clock.now = 61.0
    store.expire()
    assert await store.get("alice", "conv_1") is None
    assert cache.bytes == 0


async def test_memory_lets_the_least_recently_used_conversation_go() -> None:
    store, _ = memory(budget=8000)
    first, second = conversation("conv_1"), conversation("conv_2")
    for one in (first, second):
        await store.add(one)
    await store.get("alice", "conv_1")
    assert await store.replace(revised(first, tip("resp_1", size=5000)))
    assert await store.get("alice", "conv_1")
    assert await store.get("alice", "conv_2") is None


async def test_the_bytes_of_a_conversation_are_those_of_its_last_revision() -> None:
    (grown, counted), (straight, expected) = memory(), memory()
    now = conversation()
    await grown.add(now)
    last: DurableNode | None = None
    for number in range(5):
        last = tip(f"resp_{number}", onto=last, size=100)
        now = revised(now, last)
        assert await grown.replace(now)
    await straight.add(now)
    assert counted.bytes == expected.bytes
    assert await grown.delete("alice", "conv_1")
    assert counted.bytes == 0
