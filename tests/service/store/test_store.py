"""What every store promises."""

import dataclasses

from service import ids
from service.conversation import Rendered, Segment
from service.store import Store
from tests.service.store.nodes import compacted, item, node, said, told, tools

_ABSENT = ids.response_id(None)


async def test_a_node_comes_back_with_all_it_continues(store: Store) -> None:
    first = await store.put(node("one"))
    second = await store.put(node("two", first))
    found = await store.get("alice", second.id)
    assert said(found) == ["one", "two"]
    assert found
    assert (found.parent_id, found.inputs, found.tokens) == (first.id, 1, 11)
    assert found.pending_calls == {"call_1"}
    assert found.fingerprint
    assert found.fingerprint.service_tier == 2**64 - 1
    assert not found.crowded


async def test_a_conversation_is_as_long_as_it_was(store: Store) -> None:
    node_now = node("one")
    for text in ("two", "three"):
        node_now = node(text, await store.put(node_now))
    await store.put(node_now)
    found = await store.get("alice", node_now.id)
    assert found
    expected = node_now.segment
    assert (found.segment.count, found.segment.length) == (expected.count, expected.length)
    assert found.segment.opened == expected.opened


async def test_what_was_rendered_once_comes_back(store: Store) -> None:
    kept = await store.put(node("one"))
    found = await store.get("alice", kept.id)
    assert found
    assert found.segment.rendered == {"dialect": Rendered(b"one", 7, asks=True)}


async def test_a_response_is_retrieved_with_its_own_items(store: Store) -> None:
    first = await store.put(node("one"))
    second = node("two", first)
    await store.put(second)
    found = await store.retrieve("alice", second.id)
    assert found
    assert found.response.id == second.id
    assert found.trace.warm_up
    assert [one.message.content_text for one in found.segment.items] == ["two"]


async def test_a_conversation_can_be_forked(store: Store) -> None:
    first = await store.put(node("one"))
    second, third = node("two", first), node("three", first)
    for one in (second, third):
        await store.put(one)
    assert said(await store.get("alice", second.id)) == ["one", "two"]
    assert said(await store.get("alice", third.id)) == ["one", "three"]


async def test_tools_that_a_conversation_adds_come_back_in_order(store: Store) -> None:
    first = await store.put(dataclasses.replace(node("one"), tools=tools("a", "b")))
    second = await store.put(node("two", first))
    third = dataclasses.replace(node("three", second), tools=tools("c", onto=second.tools))
    await store.put(third)
    assert told(await store.get("alice", second.id)) == ["a", "b"]
    assert told(await store.get("alice", third.id)) == ["a", "b", "c"]


async def test_a_compaction_leaves_items_behind_but_not_tools(store: Store) -> None:
    first = await store.put(dataclasses.replace(node("one"), tools=tools("a")))
    second = await store.put(compacted("two", first))
    third = await store.put(node("three", second))
    found = await store.get("alice", third.id)
    assert said(found) == ["two", "three"]
    assert told(found) == ["a"]


async def test_absent_foreign_and_deleted_are_the_same(store: Store) -> None:
    kept, gone = await store.put(node("one")), await store.put(node("two"))
    assert await store.delete("alice", gone.id)
    for tenant, name in (("alice", _ABSENT), ("bob", kept.id), ("alice", gone.id)):
        assert await store.get(tenant, name) is None
        assert await store.retrieve(tenant, name) is None
        assert not await store.delete(tenant, name)


async def test_ids_that_are_none_are_absent(store: Store) -> None:
    for name in ("", "resp_", "resp_1", "x" * 10_000, "resp_\0" + "a" * 31, "resp_é{}*?'\"" * 3):
        assert await store.get("alice", name) is None
        assert await store.retrieve("alice", name) is None
        assert not await store.delete("alice", name)


async def test_what_continued_a_deleted_response_goes_on(store: Store) -> None:
    first = await store.put(node("one"))
    second = await store.put(node("two", first))
    assert await store.delete("alice", first.id)
    assert said(await store.get("alice", second.id)) == ["one", "two"]
    third = await store.put(node("three", second))
    assert said(await store.get("alice", third.id)) == ["one", "two", "three"]


async def test_a_response_that_was_deleted_while_it_was_continued_is_no_loss(store: Store) -> None:
    first = await store.put(node("one"))
    second = node("two", first)
    assert await store.delete("alice", first.id)
    await store.put(second)
    assert said(await store.get("alice", second.id)) == ["one", "two"]
    third = await store.put(node("three", second))
    assert said(await store.get("alice", third.id)) == ["one", "two", "three"]


async def test_a_put_is_idempotent(store: Store) -> None:
    one = node("one")
    await store.put(one)
    await store.put(dataclasses.replace(one, segment=Segment(None, [item("another")])))
    assert said(await store.get("alice", one.id)) == ["one"]


async def test_what_failed_after_it_was_kept_is_kept_as_failed(store: Store) -> None:
    one = node("one")
    await store.put(one)
    await store.amend(dataclasses.replace(one, continuable=False, response_data=b"\n\1x"))
    found = await store.get("alice", one.id)
    assert found is None or not found.continuable
    retrieved = await store.retrieve("alice", one.id)
    assert retrieved
    assert retrieved.response.id == "x"


async def test_what_failed_can_be_kept_and_retrieved_only(store: Store) -> None:
    one = dataclasses.replace(node("one"), continuable=False)
    await store.amend(one)
    found = await store.get("alice", one.id)
    assert found is None or not found.continuable
    assert await store.retrieve("alice", one.id)


async def test_the_same_id_of_two_tenants_is_two_nodes(store: Store) -> None:
    name = ids.response_id(None)
    for tenant in ("alice", "bob"):
        await store.put(node(f"of {tenant}", tenant=tenant, name=name))
    assert await store.delete("bob", name)
    assert said(await store.get("alice", name)) == ["of alice"]


async def test_large_responses_are_kept_as_they_are(store: Store) -> None:
    large = "".join(f"{number} bottles, " for number in range(40_000))
    first = await store.put(node(large))
    second = await store.put(node("two", first))
    assert said(await store.get("alice", second.id)) == [large, "two"]
