"""What every store promises."""

import time
from collections.abc import Callable

import pytest

from service.cache import Bounds, NodeCache
from service.conversation import DurableNode, Segment
from service.store import Store
from service.store.memory import MemoryStore
from turnwire.v1 import items_pb2, responses_pb2

STORES: dict[str, Callable[[], Store]] = {
    "memory": lambda: MemoryStore(NodeCache(Bounds(budget=1 << 20), time.monotonic)),
}


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest) -> Store:
    return STORES[request.param]()


def node(name: str, parent: DurableNode | None = None, tenant: str = "alice") -> DurableNode:
    text = items_pb2.Item(message=items_pb2.Message(role="user", content_text=name))
    return DurableNode(
        tenant=tenant,
        id=name,
        parent_id=parent.id if parent else None,
        segment=Segment(parent.segment if parent else None, [text]),
        inputs=1,
        pending_calls=frozenset({"call_1"}),
        trace_data=b"",
        response_data=responses_pb2.Response(id=name).SerializeToString(),
    )


def said(found: DurableNode | None) -> list[str]:
    assert found
    return [item.message.content_text for part in found.segment.path() for item in part.items]


async def test_a_node_comes_back_with_all_it_continues(store: Store) -> None:
    first = node("resp_1")
    second = node("resp_2", first)
    await store.put(first)
    await store.put(second)
    found = await store.get("alice", "resp_2")
    assert said(found) == ["resp_1", "resp_2"]
    assert found
    assert found.response.id == "resp_2"
    assert found.pending_calls == {"call_1"}


async def test_a_conversation_can_be_forked(store: Store) -> None:
    first = node("resp_1")
    for one in (first, node("resp_2", first), node("resp_3", first)):
        await store.put(one)
    assert said(await store.get("alice", "resp_2")) == ["resp_1", "resp_2"]
    assert said(await store.get("alice", "resp_3")) == ["resp_1", "resp_3"]


async def test_absent_foreign_and_deleted_are_the_same(store: Store) -> None:
    await store.put(node("resp_1"))
    await store.put(node("resp_2"))
    assert await store.delete("alice", "resp_2")
    for tenant, name in (("alice", "resp_0"), ("bob", "resp_1"), ("alice", "resp_2")):
        assert await store.get(tenant, name) is None
        assert not await store.delete(tenant, name)


async def test_a_put_is_idempotent(store: Store) -> None:
    one = node("resp_1")
    await store.put(one)
    await store.put(one)
    assert said(await store.get("alice", "resp_1")) == ["resp_1"]


async def test_the_same_id_of_two_tenants_is_two_nodes(store: Store) -> None:
    await store.put(node("resp_1", tenant="alice"))
    await store.put(node("resp_1", tenant="bob"))
    assert await store.delete("bob", "resp_1")
    assert await store.get("alice", "resp_1")
