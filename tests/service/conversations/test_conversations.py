"""Conversations as clients and turns see them: what is listed, what continues, who has to wait."""

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.conversations import conversation as sdk_conversation
from openai.types.conversations import conversation_item_list as sdk_items

from service import ids
from service.cache import Bounds, SegmentCache
from service.conversation import DurableNode, Node, Segment
from service.conversations import Conversations, Joined
from service.conversations.tips import Tips
from service.errors import Conflict, NotFound, Refusal
from service.paging import Page, item_id_of
from service.store import StoredConversation
from service.store.memory import MemoryConversations
from turnwire import json_codec
from turnwire.v1 import conversation_service_pb2 as rpc
from turnwire.v1 import items_pb2

ALL = Page(limit=100, order="asc")
SEALED = {"sealed": [items_pb2.Item(function_call=items_pb2.FunctionCall(call_id="c", name="f"))]}


def said(text: str, item_id: str | None = None, role: str = "user") -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(id=item_id, role=role, content_text=text))


async def admit(tenant: str, items: Sequence[items_pb2.Item]) -> None:
    """Let everything pass."""
    del tenant, items


def legible(tenant: str, items: Sequence[items_pb2.Item]) -> Sequence[items_pb2.Item]:
    """Open compactions as the engine does: what they stand for takes the place of all before them."""
    places = [place for place, item in enumerate(items) if item.HasField("compaction")]
    if not places:
        return items
    if (sealed := items[places[-1]].compaction.encrypted_content) not in SEALED:
        raise Refusal("invalid_value", "It cannot be read here.", "input")
    return [*SEALED[sealed], *items[places[-1] + 1 :]]


async def find(tenant: str, response_id: str) -> Node | None:
    if (tenant, response_id) != ("alice", STORED.id):
        return None
    return STORED


STORED = DurableNode(
    tenant="alice",
    id=ids.response_id(None),
    parent_id=None,
    segment=Segment(None, [said("a question"), said("from a response")]),
    inputs=1,
    pending_calls=frozenset(),
    response_data=b"response",
    trace_data=b"",
)


@pytest.fixture
def conversations() -> Conversations:
    return made()


def made(most_bytes: int = 1 << 20) -> Conversations:
    cache = SegmentCache[StoredConversation](Bounds(budget=1 << 24), lambda: 0.0)
    return Conversations(MemoryConversations(cache), Tips(legible, find, most_bytes, admit))


def call(call_id: str) -> items_pb2.Item:
    return items_pb2.Item(function_call=items_pb2.FunctionCall(call_id=call_id, name="f"))


def output(call_id: str) -> items_pb2.Item:
    answer = items_pb2.FunctionCallOutput(call_id=call_id, output_text="done")
    return items_pb2.Item(function_call_output=answer)


def compaction(sealed: str = "sealed") -> items_pb2.Item:
    return items_pb2.Item(compaction=items_pb2.Compaction(encrypted_content=sealed))


def tools(*names: str) -> items_pb2.Item:
    added = [items_pb2.Tool(function=items_pb2.FunctionTool(name=name)) for name in names]
    return items_pb2.Item(additional_tools=items_pb2.AdditionalTools(role="developer", tools=added))


def reference(item_id: str) -> items_pb2.Item:
    return items_pb2.Item(item_reference=items_pb2.ItemReference(id=item_id))


async def begin(conversations: Conversations, *items: items_pb2.Item, tenant: str = "alice") -> str:
    request = rpc.CreateConversationRequest(items=items)
    return (await conversations.create(tenant, request)).id


async def add(
    conversations: Conversations, name: str, *items: items_pb2.Item
) -> Sequence[items_pb2.Item]:
    request = rpc.CreateItemsRequest(conversation_id=name, items=items)
    return (await conversations.add_items("alice", request)).items


async def everything(conversations: Conversations, name: str) -> Sequence[items_pb2.Item]:
    return (await conversations.items("alice", name, ALL)).items


async def names(conversations: Conversations, name: str) -> list[str]:
    return [item_id_of(item) for item in await everything(conversations, name)]


async def texts(conversations: Conversations, name: str) -> list[str]:
    items = await everything(conversations, name)
    return [item.message.content[0].input_text.text for item in items]


def turn(joined: Joined, *items: items_pb2.Item) -> DurableNode:
    """Return what a runner would keep: a node on the tip, or in its place if it compacts."""
    compacts = any(item.HasField("compaction") for item in items)
    base = joined.tip.segment if joined.tip and not compacts else None
    return DurableNode(
        tenant="alice",
        id=ids.response_id(joined.tip.id if joined.tip else None),
        parent_id=joined.tip.id if joined.tip else None,
        segment=Segment(base, items),
        inputs=1,
        pending_calls=frozenset(),
        response_data=b"response",
        trace_data=b"",
    )


async def respond(conversations: Conversations, name: str, *items: items_pb2.Item) -> DurableNode:
    async with conversations.join("alice", name) as joined:
        node = turn(joined, *items)
        await joined.advance(node)
    return node


async def tip_of(conversations: Conversations, name: str) -> DurableNode:
    async with conversations.join("alice", name) as joined:
        assert joined.tip
        return joined.tip


# The resource


@pytest.mark.rule("CV-1")
async def test_a_conversation_is_made_told_and_updated(conversations: Conversations) -> None:
    made = await conversations.create(
        "alice", rpc.CreateConversationRequest(metadata={"topic": "tea"})
    )
    assert made.id.startswith("conv_")
    assert await conversations.get("alice", made.id) == made
    request = rpc.UpdateConversationRequest(conversation_id=made.id, metadata={"topic": "coffee"})
    updated = await conversations.update("alice", request)
    assert dict(updated.metadata) == {"topic": "coffee"}
    assert updated.created_at == made.created_at
    assert await conversations.get("alice", made.id) == updated


async def test_a_deleted_conversation_is_told_so_once(conversations: Conversations) -> None:
    name = await begin(conversations, said("hello"))
    deleted = await conversations.delete("alice", name)
    assert json.loads(json_codec.encode(deleted)) == {
        "id": name,
        "object": "conversation.deleted",
        "deleted": True,
    }
    with pytest.raises(NotFound):
        await conversations.delete("alice", name)


async def test_absent_foreign_and_deleted_are_the_same_to_every_call(
    conversations: Conversations,
) -> None:
    foreign = await begin(conversations, said("hello"), tenant="bob")
    deleted = await begin(conversations, said("hello"))
    await conversations.delete("alice", deleted)
    refusals = set()
    for name in ("conv_0", foreign, deleted):
        update = rpc.UpdateConversationRequest(conversation_id=name)
        for asked in (
            conversations.get("alice", name),
            conversations.update("alice", update),
            conversations.delete("alice", name),
            conversations.items("alice", name, Page()),
            conversations.item("alice", name, "msg_1"),
            conversations.delete_item("alice", name, "msg_1"),
            add(conversations, name, said("more")),
            respond(conversations, name, said("more")),
        ):
            with pytest.raises(NotFound) as refused:
                await asked
            refusals.add((refused.value.code, refused.value.message, refused.value.param))
    assert len(refusals) == 1
    assert refusals.pop()[0] == "not_found"


async def test_too_much_metadata_is_refused(conversations: Conversations) -> None:
    metadata = {str(number): "" for number in range(17)}
    name = await begin(conversations)
    update = rpc.UpdateConversationRequest(conversation_id=name, metadata=metadata)
    for asked in (
        conversations.create("alice", rpc.CreateConversationRequest(metadata=metadata)),
        conversations.update("alice", update),
    ):
        with pytest.raises(Refusal) as refused:
            await asked
        assert refused.value.param == "metadata"


async def test_the_openai_sdk_reads_what_is_told(conversations: Conversations) -> None:
    request = rpc.CreateConversationRequest(items=[said("hello"), call("c"), output("c")])
    made = await conversations.create("alice", request)
    sdk_conversation.Conversation.model_validate_json(json_codec.encode(made), strict=True)
    listed = json_codec.encode(await conversations.items("alice", made.id, ALL))
    read = sdk_items.ConversationItemList.model_validate_json(listed, strict=True)
    assert [item.type for item in read.data] == [
        "message",
        "function_call",
        "function_call_output",
    ]


# Items


@pytest.mark.rule("CV-5")
async def test_items_are_listed_under_the_ids_they_were_added_with(
    conversations: Conversations,
) -> None:
    name = await begin(conversations, said("one"), said("two", "mine"))
    added = await add(conversations, name, said("three"), said("four", "mine"))
    listed = await everything(conversations, name)
    every = [item_id_of(item) for item in listed]
    assert await texts(conversations, name) == ["one", "two", "three", "four"]
    assert len(set(every)) == 4
    assert every[1] == "mine"
    assert listed[2:] == added
    for item_id, item in zip(every, listed, strict=True):
        assert await conversations.item("alice", name, item_id) == item


async def test_an_item_that_is_not_there_is_not_found(conversations: Conversations) -> None:
    name = await begin(conversations, said("one"))
    for asked in (
        conversations.item("alice", name, "msg_0"),
        conversations.delete_item("alice", name, "msg_0"),
    ):
        with pytest.raises(NotFound) as refused:
            await asked
        assert refused.value.param == "item_id"


async def test_more_than_twenty_items_at_once_are_refused(conversations: Conversations) -> None:
    name = await begin(conversations, *[said("x")] * 20)
    for asked in (
        begin(conversations, *[said("x")] * 21),
        add(conversations, name, *[said("x")] * 21),
    ):
        with pytest.raises(Refusal) as refused:
            await asked
        assert refused.value.param == "items"
    assert len(await everything(conversations, name)) == 20


async def test_adding_nothing_changes_nothing(conversations: Conversations) -> None:
    name = await begin(conversations, said("one"))
    tip = await tip_of(conversations, name)
    assert list(await add(conversations, name)) == []
    assert await tip_of(conversations, name) is tip


async def test_a_conversation_may_not_grow_beyond_its_bound() -> None:
    conversations = made(most_bytes=1000)
    name = await begin(conversations, said("x" * 900))
    with pytest.raises(Refusal) as refused:
        await add(conversations, name, said("x" * 100))
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "items")
    assert len(await everything(conversations, name)) == 1


async def test_a_conversation_may_not_have_too_many_items(conversations: Conversations) -> None:
    name = await begin(conversations)
    await respond(conversations, name, *[items_pb2.Item()] * 65_535)
    await add(conversations, name, said("last"))
    with pytest.raises(Refusal) as refused:
        await add(conversations, name, said("one more"))
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "items")
    await add(conversations, name, compaction())
    assert len(await everything(conversations, name)) == 1


async def test_a_list_that_is_being_read_holds_up_no_other_tenant(
    conversations: Conversations,
) -> None:
    name = await begin(conversations)
    await respond(conversations, name, *[items_pb2.Item()] * 65_536)
    foreign = await begin(conversations, said("hello"), tenant="bob")
    slow = [asyncio.create_task(conversations.items("alice", name, Page())) for _ in range(3)]
    await asyncio.sleep(0)
    assert (await conversations.items("bob", foreign, Page())).items
    assert not any(task.done() for task in slow)
    assert all(listed.has_more for listed in await asyncio.gather(*slow))


async def test_a_long_conversation_lists_all_it_has(conversations: Conversations) -> None:
    name = await begin(conversations)
    for number in range(200):
        await respond(conversations, name, said(str(number)))
    assert (await texts(conversations, name)) == [str(number) for number in range(100)]
    newest = await conversations.items("alice", name, Page(limit=1))
    assert newest.items[0].message.content[0].input_text.text == "199"


# What turns continue


async def test_an_empty_conversation_has_no_tip(conversations: Conversations) -> None:
    name = await begin(conversations)
    async with conversations.join("alice", name) as joined:
        assert joined.tip is None


async def test_a_response_becomes_the_tip_and_its_items_are_listed(
    conversations: Conversations,
) -> None:
    name = await begin(conversations, said("one"))
    before = await tip_of(conversations, name)
    node = await respond(conversations, name, said("two"), said("three", "msg_output"))
    assert await tip_of(conversations, name) is node
    assert node.segment.parent is before.segment
    assert ids.root_of(node.id) == ids.root_of(before.id)
    assert await texts(conversations, name) == ["one", "two", "three"]
    assert (await names(conversations, name))[2] == "msg_output"


async def test_a_turn_that_fails_changes_nothing(conversations: Conversations) -> None:
    name = await begin(conversations, said("one"))
    before = await tip_of(conversations, name)
    with pytest.raises(ZeroDivisionError):
        async with conversations.join("alice", name):
            raise ZeroDivisionError
    assert await tip_of(conversations, name) is before


async def test_added_items_stand_on_what_a_response_left(conversations: Conversations) -> None:
    name = await begin(conversations)
    node = await respond(conversations, name, said("one"))
    await add(conversations, name, said("two"))
    tip = await tip_of(conversations, name)
    assert tip.segment.parent is node.segment
    assert tip.parent_id == node.id
    assert tip.inputs == 1
    assert await texts(conversations, name) == ["one", "two"]


async def test_a_tip_that_no_model_made_has_its_length_estimated(
    conversations: Conversations,
) -> None:
    name = await begin(conversations, said("x" * 4000))
    begun = (await tip_of(conversations, name)).tokens
    assert 1000 <= begun < 1010
    await add(conversations, name, said("x" * 400))
    assert 1100 <= (await tip_of(conversations, name)).tokens < 1120
    await conversations.delete_item("alice", name, (await names(conversations, name))[0])
    assert 100 <= (await tip_of(conversations, name)).tokens < 110


async def test_calls_wait_for_their_outputs_across_additions(conversations: Conversations) -> None:
    name = await begin(conversations, said("go"), call("a"), call("b"))
    await add(conversations, name, output("a"))
    assert (await tip_of(conversations, name)).pending_calls == {"b"}
    with pytest.raises(Refusal) as refused:
        await add(conversations, name, output("z"))
    assert (refused.value.status, refused.value.param) == (400, "items")
    assert (await tip_of(conversations, name)).pending_calls == {"b"}


async def test_tools_that_items_add_stay_with_the_conversation(
    conversations: Conversations,
) -> None:
    name = await begin(conversations, tools("one"))
    await add(conversations, name, said("hello"), tools("two", "three"))
    await add(conversations, name, said("bye"))
    tip = await tip_of(conversations, name)
    assert tip.tools
    assert [tool.function.name for tool in tip.tools.parsed()] == ["one", "two", "three"]


# References


async def test_references_become_what_they_refer_to(conversations: Conversations) -> None:
    name = await begin(conversations, said("here", "mine"))
    added = await add(
        conversations,
        name,
        reference("mine"),
        reference(ids.item_id("msg", STORED.id, 0)),
        said("new"),
    )
    shown = [item.message.content[0].input_text.text for item in added]
    assert shown == ["here", "from a response", "new"]
    assert len(set(await names(conversations, name))) == 4


async def test_a_reference_to_nothing_is_refused(conversations: Conversations) -> None:
    name = await begin(conversations, said("here", "mine"))
    for asked in (
        add(conversations, name, reference("x")),
        begin(conversations, reference("mine")),
    ):
        with pytest.raises(NotFound):
            await asked
    assert await names(conversations, name) == ["mine"]


# Compaction


async def test_a_response_that_compacts_begins_the_list(conversations: Conversations) -> None:
    name = await begin(conversations, said("one"), said("two"))
    before = await names(conversations, name)
    await respond(conversations, name, compaction(), said("three"))
    listed = await everything(conversations, name)
    assert [item.WhichOneof("kind") for item in listed] == ["compaction", "message"]
    assert not set(before) & set(await names(conversations, name))


async def test_a_compaction_that_is_added_stands_for_all_before_it(
    conversations: Conversations,
) -> None:
    name = await begin(conversations, said("one"), call("old"))
    before = await names(conversations, name)
    added = await add(conversations, name, compaction(), output("c"), said("two"))
    tip = await tip_of(conversations, name)
    assert tip.segment.parent is None
    assert tip.pending_calls == frozenset()
    assert await everything(conversations, name) == added
    more = await add(conversations, name, said("three"))
    every = [*before, *(item_id_of(item) for item in [*added, *more])]
    assert len(set(every)) == len(every)


async def test_a_compaction_that_cannot_be_opened_is_refused(conversations: Conversations) -> None:
    name = await begin(conversations, said("one"))
    with pytest.raises(Refusal) as refused:
        await add(conversations, name, compaction("tampered"))
    assert refused.value.param == "items"
    assert await texts(conversations, name) == ["one"]


# Deleting items


async def test_an_item_is_taken_out_and_the_others_keep_their_ids(
    conversations: Conversations,
) -> None:
    name = await begin(conversations, said("one"), said("two"))
    await respond(conversations, name, said("three"), said("four", "msg_output"))
    before = await names(conversations, name)
    told = await conversations.delete_item("alice", name, before[1])
    assert told == await conversations.get("alice", name)
    assert await texts(conversations, name) == ["one", "three", "four"]
    assert await names(conversations, name) == [before[0], before[2], before[3]]
    with pytest.raises(NotFound):
        await conversations.item("alice", name, before[1])


async def test_the_last_item_can_be_taken_out(conversations: Conversations) -> None:
    name = await begin(conversations, said("one"))
    (only,) = await names(conversations, name)
    await conversations.delete_item("alice", name, only)
    assert await everything(conversations, name) == []
    await add(conversations, name, said("two"))
    assert await names(conversations, name) != [only]


async def test_a_call_is_not_taken_from_its_output(conversations: Conversations) -> None:
    name = await begin(conversations, call("a"), output("a"))
    asked, answered = await names(conversations, name)
    with pytest.raises(Refusal) as refused:
        await conversations.delete_item("alice", name, asked)
    assert (refused.value.status, refused.value.param) == (400, "item_id")
    await conversations.delete_item("alice", name, answered)
    assert (await tip_of(conversations, name)).pending_calls == {"a"}
    await conversations.delete_item("alice", name, asked)
    assert await names(conversations, name) == []


Step = tuple[str, int]


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "respond", "delete", "compact"]), st.integers(0, 3)),
        max_size=12,
    )
)
async def test_whatever_happens_an_id_that_was_drawn_never_comes_again(steps: list[Step]) -> None:
    conversations = made()
    name = await begin(conversations)
    known: dict[str, str] = {}
    for number, (word, place) in enumerate(steps):
        listed = await names(conversations, name)
        if word == "delete" and listed:
            await conversations.delete_item("alice", name, listed[place % len(listed)])
        elif word == "add":
            await add(conversations, name, *[said(f"{number}.{part}") for part in range(place)])
        elif word == "compact":
            await respond(conversations, name, compaction(), said(f"{number}"))
        elif word == "respond":
            await respond(conversations, name, said(f"{number}", "client's own"))
        items = await everything(conversations, name)
        assert len({item_id_of(item) for item in items}) == len(items)
        for item in items:
            if (item_id := item_id_of(item)) != "client's own":
                text = json_codec.encode(item).decode()
                assert known.setdefault(item_id, text) == text


# Who has to wait


@pytest.mark.rule("CV-3")
async def test_during_a_turn_others_are_told_to_try_again(conversations: Conversations) -> None:
    name = await begin(conversations, said("one"))
    (item_id,) = await names(conversations, name)
    async with conversations.join("alice", name):
        for asked in (
            respond(conversations, name, said("two")),
            add(conversations, name, said("two")),
            conversations.delete_item("alice", name, item_id),
        ):
            with pytest.raises(Conflict) as refused:
                await asked
            assert (refused.value.status, refused.value.code) == (409, "conversation_locked")
            assert "again" in refused.value.message
        assert await texts(conversations, name) == ["one"]
    await add(conversations, name, said("two"))
    assert await texts(conversations, name) == ["one", "two"]


async def test_a_turn_in_one_conversation_leaves_others_alone(
    conversations: Conversations,
) -> None:
    held = await begin(conversations, said("one"))
    free = await begin(conversations, said("one"))
    async with conversations.join("alice", held):
        await respond(conversations, free, said("two"))
    assert await texts(conversations, free) == ["one", "two"]


async def test_metadata_changes_during_a_turn_and_both_are_kept(
    conversations: Conversations,
) -> None:
    name = await begin(conversations, said("one"))
    async with conversations.join("alice", name) as joined:
        update = rpc.UpdateConversationRequest(conversation_id=name, metadata={"topic": "tea"})
        await conversations.update("alice", update)
        await joined.advance(turn(joined, said("two")))
    assert dict((await conversations.get("alice", name)).metadata) == {"topic": "tea"}
    assert await texts(conversations, name) == ["one", "two"]


async def test_a_conversation_that_is_deleted_during_a_turn_stays_deleted(
    conversations: Conversations,
) -> None:
    name = await begin(conversations, said("one"))
    async with conversations.join("alice", name) as joined:
        await conversations.delete("alice", name)
        with pytest.raises(NotFound):
            await respond(conversations, name, said("two"))
        await joined.advance(turn(joined, said("two")))
    with pytest.raises(NotFound):
        await conversations.get("alice", name)


async def test_of_two_replicas_only_the_first_turn_advances() -> None:
    cache = SegmentCache[StoredConversation](Bounds(budget=1 << 24), lambda: 0.0)
    store, tips = MemoryConversations(cache), Tips(legible, find, 1 << 20, admit)
    one, other = Conversations(store, tips), Conversations(store, tips)
    name = await begin(one, said("one"))
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(one.join("alice", name))
        second = await stack.enter_async_context(other.join("alice", name))
        await first.advance(turn(first, said("first")))
        with pytest.raises(Conflict):
            await second.advance(turn(second, said("second")))
    assert await texts(one, name) == ["one", "first"]


async def test_items_added_all_at_once_are_added_or_refused(conversations: Conversations) -> None:
    name = await begin(conversations)
    additions = (add(conversations, name, said(str(number))) for number in range(10))
    outcomes = await asyncio.gather(*additions, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert all(isinstance(refusal, Conflict) for refusal in refused)
    assert len(await everything(conversations, name)) == 10 - len(refused) > 0
