"""Conversations over gRPC: each call is the engine's, typed, and failures are statuses."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import grpc
import pytest

from service.cache import Bounds, SegmentCache
from service.conversation import Node
from service.conversations import Conversations
from service.conversations.tips import Tips
from service.engine import Engine
from service.errors import Overloaded, Unauthenticated
from service.identity import Anonymous, Credentials, Identity
from service.limits import Limits
from service.store import StoredConversation
from service.store.memory import MemoryConversations
from transports.grpc import serve
from turnwire.v1 import conversation_service_pb2 as rpc
from turnwire.v1 import conversation_service_pb2_grpc as stubs
from turnwire.v1 import items_pb2

Metadata = tuple[tuple[str, str], ...]


class Named(Anonymous):
    """The key is the tenant's name."""

    def identify(self, credentials: Credentials) -> Identity:
        if credentials.authorization is None:
            raise Unauthenticated
        return Identity(credentials.authorization)


async def admit(tenant: str, items: Sequence[items_pb2.Item]) -> None:
    """Let everything pass."""
    del tenant, items


async def nothing(tenant: str, response_id: str) -> Node | None:
    del tenant, response_id
    return None


class Face:
    """A served engine that has conversations only."""

    def __init__(self, engine: "Going", channel: grpc.aio.Channel) -> None:
        self.engine = engine
        self.conversations = engine.conversations
        self.channel = channel
        self.stub = stubs.ConversationServiceStub(channel)

    async def begin(self, *items: items_pb2.Item) -> str:
        request = rpc.CreateConversationRequest(items=items)
        made = await self.stub.CreateConversation(request, metadata=caller("alice"))
        return made.conversation.id


class Going:
    """An engine that may go away."""

    ready = True

    def __init__(self, conversations: Conversations) -> None:
        self.conversations = conversations
        self.refusals: list[int] = []

    def admit(self) -> None:
        if not self.ready:
            raise Overloaded("server_is_overloaded", "The server is going away.")

    def refused(self, transport: str, status: int) -> None:
        assert transport == "grpc"
        self.refusals.append(status)


@pytest.fixture
async def face() -> AsyncIterator[Face]:
    cache = SegmentCache[StoredConversation](Bounds(budget=1 << 24), lambda: 0.0)
    tips = Tips(lambda _, items: items, nothing, 1 << 20, admit)
    conversations = Conversations(MemoryConversations(cache), tips)
    engine = Going(conversations)
    server = await serve(cast("Engine", engine), Named(), Limits(), "127.0.0.1:0")
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Face(engine, channel)
    await server.stop(0)


def caller(tenant: str) -> Metadata:
    return (("authorization", tenant),)


def said(text: str) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(role="user", content_text=text))


def texts(listed: items_pb2.ItemList) -> list[str]:
    return [item.message.content[0].input_text.text for item in listed.items]


async def status(call: grpc.aio.Call) -> tuple[grpc.StatusCode, str]:
    async with asyncio.timeout(10):
        return await call.code(), str(dict(await call.trailing_metadata()).get("turnwire-code"))


@pytest.mark.rule("CV-1", "GR-4")
async def test_a_conversation_lives_from_its_beginning_to_its_end(face: Face) -> None:
    stub, alice = face.stub, caller("alice")
    request = rpc.CreateConversationRequest(items=[said("one")], metadata={"topic": "tea"})
    made = (await stub.CreateConversation(request, metadata=alice)).conversation
    got = await stub.GetConversation(
        rpc.GetConversationRequest(conversation_id=made.id), metadata=alice
    )
    assert got.conversation == made
    update = rpc.UpdateConversationRequest(conversation_id=made.id, metadata={"topic": "coffee"})
    updated = await stub.UpdateConversation(update, metadata=alice)
    assert dict(updated.conversation.metadata) == {"topic": "coffee"}
    gone = await stub.DeleteConversation(
        rpc.DeleteConversationRequest(conversation_id=made.id), metadata=alice
    )
    assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)


@pytest.mark.rule("CV-5", "GR-4")
async def test_items_are_added_listed_got_and_taken_out(face: Face) -> None:
    stub, alice = face.stub, caller("alice")
    name = await face.begin(said("one"))
    create = rpc.CreateItemsRequest(conversation_id=name, items=[said("two"), said("three")])
    added = (await stub.CreateItems(create, metadata=alice)).list
    assert texts(added) == ["two", "three"]
    page = rpc.ListItemsRequest(conversation_id=name, after=added.last_id, limit=1, order="desc")
    listed = (await stub.ListItems(page, metadata=alice)).list
    assert texts(listed) == ["two"]
    assert listed.has_more
    one = rpc.GetItemRequest(conversation_id=name, item_id=added.first_id)
    assert (await stub.GetItem(one, metadata=alice)).item == added.items[0]
    out = rpc.DeleteItemRequest(conversation_id=name, item_id=added.first_id)
    assert (await stub.DeleteItem(out, metadata=alice)).conversation.id == name
    every = await stub.ListItems(rpc.ListItemsRequest(conversation_id=name), metadata=alice)
    assert texts(every.list) == ["three", "one"]


async def test_without_a_key_nothing_is_told(face: Face) -> None:
    name = await face.begin()
    call = face.stub.GetConversation(rpc.GetConversationRequest(conversation_id=name))
    assert await status(call) == (grpc.StatusCode.UNAUTHENTICATED, "invalid_api_key")


@pytest.mark.rule("SS-4")
async def test_another_tenants_conversation_is_not_there(face: Face) -> None:
    name = await face.begin(said("one"))
    details = set()
    for tenant, conversation in (("bob", name), ("alice", "conv_0")):
        request = rpc.GetConversationRequest(conversation_id=conversation)
        call = face.stub.GetConversation(request, metadata=caller(tenant))
        assert await status(call) == (grpc.StatusCode.NOT_FOUND, "not_found")
        details.add(await call.details())
    assert len(details) == 1


@pytest.mark.rule("CV-3")
async def test_a_conversation_in_which_a_response_is_made_is_locked(face: Face) -> None:
    name = await face.begin(said("one"))
    create = rpc.CreateItemsRequest(conversation_id=name, items=[said("two")])
    async with face.conversations.join("alice", name):
        call = face.stub.CreateItems(create, metadata=caller("alice"))
        assert await status(call) == (grpc.StatusCode.ABORTED, "conversation_locked")
    assert await face.stub.CreateItems(create, metadata=caller("alice"))


async def test_items_of_unknown_types_are_read_as_if_they_had_come_as_json(face: Face) -> None:
    known = items_pb2.Item(other_json='{"type":"message","role":"user","content":"hi"}')
    name = await face.begin(known)
    request = rpc.ListItemsRequest(conversation_id=name)
    listed = await face.stub.ListItems(request, metadata=caller("alice"))
    assert texts(listed.list) == ["hi"]


async def test_text_that_is_no_json_is_refused(face: Face) -> None:
    broken = rpc.CreateConversationRequest(items=[items_pb2.Item(other_json="[")])
    call = face.stub.CreateConversation(broken, metadata=caller("alice"))
    assert await status(call) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_json")


async def test_while_the_server_goes_away_nothing_is_changed(face: Face) -> None:
    name = await face.begin(said("one"))
    face.engine.ready = False
    stub, alice = face.stub, caller("alice")
    calls = (
        stub.CreateConversation(rpc.CreateConversationRequest(), metadata=alice),
        stub.UpdateConversation(
            rpc.UpdateConversationRequest(conversation_id=name), metadata=alice
        ),
        stub.DeleteConversation(
            rpc.DeleteConversationRequest(conversation_id=name), metadata=alice
        ),
        stub.CreateItems(rpc.CreateItemsRequest(conversation_id=name), metadata=alice),
        stub.DeleteItem(rpc.DeleteItemRequest(conversation_id=name), metadata=alice),
    )
    for call in calls:
        assert await status(call) == (grpc.StatusCode.UNAVAILABLE, "server_is_overloaded")
    assert face.engine.refusals == [503] * len(calls)
    get = rpc.GetConversationRequest(conversation_id=name)
    assert await stub.GetConversation(get, metadata=alice)


async def test_too_many_items_are_refused_before_they_are_read(face: Face) -> None:
    broken = items_pb2.Item(other_json="[")
    request = rpc.CreateConversationRequest(items=[broken] * 21)
    call = face.stub.CreateConversation(request, metadata=caller("alice"))
    assert await status(call) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_value")


async def test_a_request_of_few_items_may_not_be_as_large_as_a_context(face: Face) -> None:
    call = face.stub.CreateConversation(
        rpc.CreateConversationRequest(items=[said("x" * 17_000_000)]), metadata=caller("alice")
    )
    assert await status(call) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "message_too_large")


async def test_every_call_of_the_contract_is_offered(face: Face) -> None:
    service = rpc.DESCRIPTOR.services_by_name["ConversationService"]
    for method in service.methods:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = face.channel.unary_unary(f"/{service.full_name}/{method.name}")
        code, _ = await status(call(b"", metadata=caller("alice")))
        assert code in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND)
