"""Responses and conversations that outlive their turns (docs/protocol.md, "Stored responses …")."""

import asyncio
import json
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from service.engine import Engine
from service.errors import NotFound, RateLimited, Refusal
from service.identity import Identity
from service.paging import Page
from tests.conformance.clients import Connect
from tests.conformance.conftest import Talk
from tests.conformance.conversation import WAIT, Conversation, Heard
from tests.conformance.gated import Gated
from tests.conformance.schema import sdk
from tests.conformance.schema.fields import PROTOCOL
from tests.conformance.server import Server
from turnwire import json_codec
from turnwire.delta import to_message
from turnwire.v1 import conversation_service_pb2, events_pb2, items_pb2, responses_pb2

ENDED = {"completed", "incomplete", "failed"}
EVERYTHING = 'reasoning 3 ; text 4 ; refuse I would rather not ; call f {"a": 1} ; custom g x'


def user(text: str) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(role="user", content_text=text))


async def follow(
    engine: Engine, response_id: str, starting_after: int | None = None
) -> list[events_pb2.ServerEvent]:
    """Hear a stored response's events to the end."""
    async with asyncio.timeout(WAIT):
        batches = await engine.responses.follow("alice", response_id, starting_after)
        async with aclosing(batches):
            return [to_message(event) async for batch in batches for event in batch]


async def begin(chat: Conversation, text: str, **members: Any) -> str:
    """Begin a turn that waits at the gate, and return its response's id."""
    await chat.send(input=text, **members)
    heard = await chat.hear_until("in_progress")
    await chat.hear_until("output_item_added")
    return heard[0].created.response.id


@pytest.mark.rule("RV-1", "EV-14")
@pytest.mark.parametrize("directives", ["text 3", "text 3 ; length", "fail server_error"])
async def test_a_response_can_be_retrieved_however_it_ended(
    talk: Talk, server: Server, directives: str
) -> None:
    async with talk() as chat:
        heard = await chat.sim(directives)
    assert await server.engine.responses.get("alice", heard.id) == heard.response
    sdk.check_response(json.loads(json_codec.encode(heard.response)))


@pytest.mark.rule("RV-1")
async def test_a_response_can_be_retrieved_while_it_is_made(
    chat: Conversation, gated: Server, model: Gated
) -> None:
    response_id = await begin(chat, "#sim text 2 ; stall 0 ; text 2")
    running = await gated.engine.responses.get("alice", response_id)
    assert (running.id, running.status) == (response_id, "in_progress")
    model.gate.set()
    assert (await chat.hear()).kinds[-1] == "completed"


@pytest.mark.rule("RV-2")
@pytest.mark.parametrize(
    "directives", [EVERYTHING, "text 3 ; length", "text 9", "fail server_error after 3 words"]
)
async def test_events_are_told_again_as_they_were(
    talk: Talk, server: Server, directives: str
) -> None:
    async with talk() as chat:
        heard = await chat.sim(directives, max_output_tokens=200)
    assert await follow(server.engine, heard.id) == heard
    for number in range(-1, len(heard)):
        assert await follow(server.engine, heard.id, number) == heard[number + 1 :]


@pytest.mark.rule("RV-2")
async def test_a_warm_up_is_told_again_as_it_was(talk: Talk, server: Server) -> None:
    async with talk() as chat:
        heard = await chat.ask(generate=False)
    assert await follow(server.engine, heard.id) == heard


@pytest.mark.rule("RV-2")
async def test_who_comes_later_hears_what_was_said_and_what_is_said(
    chat: Conversation, gated: Server, model: Gated
) -> None:
    await chat.send(input="#sim text 5 ; stall 0 ; text 5")
    heard = Heard(await chat.hear_until("output_text_delta"))
    response_id = heard[0].created.response.id
    batches = await gated.engine.responses.follow("alice", response_id, None)
    followed = [to_message(event) for event in await anext(batches)]
    assert followed[: len(heard)] == heard[: len(followed)]
    model.gate.set()
    heard += await chat.hear()
    async with asyncio.timeout(WAIT), aclosing(batches):
        followed += [to_message(event) async for batch in batches for event in batch]
    assert followed == heard


@pytest.mark.rule("RV-2")
async def test_no_more_than_some_follow_one_response(
    chat: Conversation, gated: Server, model: Gated
) -> None:
    response_id = await begin(chat, "#sim text 3 ; stall 0 ; text 1")
    async with AsyncExitStack() as following:
        for _ in range(64):
            batches = await gated.engine.responses.follow("alice", response_id, None)
            await following.enter_async_context(aclosing(batches))
            await anext(batches)
        with pytest.raises(RateLimited):
            await gated.engine.responses.follow("alice", response_id, None)
    batches = await gated.engine.responses.follow("alice", response_id, None)
    await batches.aclose()
    model.gate.set()
    assert (await chat.hear()).kinds[-1] == "completed"


@pytest.mark.rule("RV-3", "SS-9")
async def test_a_response_can_be_cancelled_from_elsewhere(
    chat: Conversation, gated: Server, model: Gated
) -> None:
    response_id = await begin(chat, "#sim text 3 ; stall 3600")
    async with asyncio.timeout(WAIT):
        cancelled = await gated.engine.responses.cancel("alice", response_id)
    assert cancelled.status == "cancelled"
    heard = await chat.hear()
    assert (heard.kinds[-1], heard.response.status) == ("incomplete", "cancelled")
    assert await gated.engine.responses.get("alice", response_id) == heard.response
    assert await gated.engine.responses.cancel("alice", response_id) == heard.response
    assert model.running == 0
    model.gate.set()
    refused = await chat.ask(previous_response_id=response_id)
    assert refused.error.error.code == "previous_response_not_found"


@pytest.mark.rule("RV-3")
async def test_a_response_that_has_ended_is_not_cancelled_any_more(
    talk: Talk, server: Server
) -> None:
    async with talk() as chat:
        heard = await chat.ask()
    assert await server.engine.responses.cancel("alice", heard.id) == heard.response


@pytest.mark.rule("RV-4")
async def test_what_continued_a_deleted_response_goes_on(talk: Talk, server: Server) -> None:
    async with talk() as chat:
        first = await chat.ask("a " * 100)
        second = await chat.ask("b", previous_response_id=first.id)
        await server.engine.responses.delete("alice", first.id)
        with pytest.raises(NotFound):
            await server.engine.responses.get("alice", first.id)
        third = await chat.ask("c", previous_response_id=second.id)
    assert third.response.usage.input_tokens > second.response.usage.input_tokens > 100


@pytest.mark.rule("RV-5", "RO-6")
async def test_the_input_of_a_response_can_be_listed_in_pages(talk: Talk, server: Server) -> None:
    own = {"type": "message", "id": "msg_mine", "role": "user", "content": "mine"}
    items = [own, own, *({"role": "user", "content": str(number)} for number in range(5))]
    async with talk() as chat:
        heard = await chat.ask(input=items)
    responses = server.engine.responses
    page = await responses.input_items("alice", heard.id, Page("", 3, "asc"))
    listed = list(page.items)
    while page.has_more:
        page = await responses.input_items("alice", heard.id, Page(page.last_id, 3, "asc"))
        listed += page.items
        assert len(page.items) <= 3
    assert len({item.message.id for item in listed}) == len(items)
    newest = await responses.input_items("alice", heard.id, Page("", 100, "desc"))
    assert list(newest.items) == listed[::-1]


@pytest.mark.rule("RV-6", "SS-4")
@pytest.mark.connection
async def test_what_was_not_stored_cannot_be_retrieved(talk: Talk, server: Server) -> None:
    async with talk() as chat:
        unstored = await chat.ask(store=False)
        stored = await chat.ask()
        responses = server.engine.responses
        for tenant, response_id in (
            ("alice", unstored.id),
            ("bob", stored.id),
            ("alice", "resp_1"),
        ):
            for asked in (
                responses.get(tenant, response_id),
                responses.delete(tenant, response_id),
                responses.cancel(tenant, response_id),
                responses.input_items(tenant, response_id, Page()),
                responses.follow(tenant, response_id, None),
            ):
                with pytest.raises(NotFound) as refused:
                    await asked
                assert refused.value.code == "not_found"


async def conversation(engine: Engine, *texts: str) -> str:
    """Make a conversation that begins with what a user said."""
    items = [user(text) for text in texts]
    request = conversation_service_pb2.CreateConversationRequest(items=items)
    return (await engine.conversations.create("alice", request)).id


async def said(engine: Engine, conversation_id: str) -> list[str]:
    """Return the kinds of a conversation's items, oldest first."""
    page = Page("", 100, "asc")
    listed = await engine.conversations.items("alice", conversation_id, page)
    return [item.WhichOneof("kind") or "" for item in listed.items]


@pytest.mark.rule("CV-1", "CV-5")
async def test_a_conversation_has_items_and_metadata(server: Server) -> None:
    conversations, request = server.engine.conversations, conversation_service_pb2
    made = await conversations.create(
        "alice",
        request.CreateConversationRequest(items=[user("a"), user("b")], metadata={"k": "v"}),
    )
    changed = request.UpdateConversationRequest(conversation_id=made.id, metadata={"k": "w"})
    assert (await conversations.update("alice", changed)).metadata == {"k": "w"}
    assert await conversations.get("alice", made.id) == await conversations.update("alice", changed)
    added = request.CreateItemsRequest(conversation_id=made.id, items=[user("c")])
    [item] = (await conversations.add_items("alice", added)).items
    assert await conversations.item("alice", made.id, item.message.id) == item
    await conversations.delete_item("alice", made.id, item.message.id)
    assert await said(server.engine, made.id) == ["message", "message"]
    assert (await conversations.delete("alice", made.id)).deleted
    with pytest.raises(NotFound):
        await conversations.get("alice", made.id)


@pytest.mark.rule("CV-2")
@pytest.mark.parametrize("form", ["id", "object"])
async def test_a_response_continues_its_conversation_and_adds_to_it(
    talk: Talk, server: Server, form: str
) -> None:
    conversation_id = await conversation(server.engine, "a " * 400)
    named = conversation_id if form == "id" else {"id": conversation_id}
    async with talk() as chat:
        first = await chat.ask("b", conversation=named)
        second = await chat.ask("c", conversation=named)
    assert first.response.usage.input_tokens > 100
    assert second.response.usage.input_tokens > first.response.usage.input_tokens
    assert json.loads(json_codec.encode(second.response))["conversation"] == {"id": conversation_id}
    assert await said(server.engine, conversation_id) == ["message"] * 5


@pytest.mark.rule("CV-3")
async def test_a_conversation_is_locked_while_a_response_is_made_in_it(
    gated: Server, connect: Connect, model: Gated
) -> None:
    conversation_id = await conversation(gated.engine, "a")
    async with connect(gated, gated.alice) as one, connect(gated, gated.alice) as other:
        first, second = Conversation(one), Conversation(other)
        await begin(first, "#sim text 1 ; stall 0 ; text 1", conversation=conversation_id)
        heard = await second.ask(conversation=conversation_id)
        assert (heard.error.status, heard.error.error.code) == (409, "conversation_locked")
        more = conversation_service_pb2.CreateItemsRequest(
            conversation_id=conversation_id, items=[user("b")]
        )
        with pytest.raises(Refusal) as refused:
            await gated.engine.conversations.add_items("alice", more)
        assert refused.value.code == "conversation_locked"
        model.gate.set()
        assert (await first.hear()).kinds[-1] == "completed"
        assert (await second.ask(conversation=conversation_id)).kinds[-1] == "completed"


@pytest.mark.rule("CV-4")
async def test_a_turn_that_fails_changes_nothing_in_its_conversation(
    talk: Talk, server: Server
) -> None:
    conversation_id = await conversation(server.engine, "a")
    async with talk() as chat:
        failed = await chat.sim("fail server_error", conversation=conversation_id)
        assert failed.kinds[-1] == "failed"
        assert await said(server.engine, conversation_id) == ["message"]
        assert (await chat.ask(conversation=conversation_id)).kinds[-1] == "completed"


@pytest.mark.rule("CV-6")
async def test_a_conversation_keeps_what_is_said_in_it(talk: Talk, server: Server) -> None:
    conversation_id = await conversation(server.engine, "a")
    async with talk() as chat:
        heard = await chat.ask(conversation=conversation_id, store=False)
        assert (heard.error.status, heard.error.error.param) == (400, "store")


@pytest.mark.rule("SS-4")
async def test_a_strangers_conversation_is_as_absent_as_one_that_never_was(
    talk: Talk, server: Server
) -> None:
    conversation_id = await conversation(server.engine, "a")
    async with talk(server.bob) as chat:
        foreign = await chat.ask(conversation=conversation_id)
        absent = await chat.ask(conversation="conv_1")
    assert (foreign.error.status, foreign.error.error.code) == (404, "not_found")
    assert (absent.error.status, absent.error.error.code) == (404, "not_found")


@pytest.mark.rule("CR-13")
async def test_a_response_in_the_background_runs_without_its_client(server: Server) -> None:
    create = responses_pb2.CreateResponse(input_text="hello")
    create.settings.model, create.settings.background = "simulator", True
    begun = await server.engine.start(Identity("alice"), create)
    assert begun.status in {"queued", "in_progress"}
    events = Heard(await follow(server.engine, begun.id))
    assert events.text == "hello"
    assert events.response.settings.background
    for event in events:
        assert PROTOCOL.event_faults(json.loads(json_codec.encode(event))) == []


@pytest.mark.rule("CR-13")
async def test_what_runs_in_the_background_must_be_stored(server: Server) -> None:
    create = responses_pb2.CreateResponse(input_text="hello")
    create.settings.model, create.settings.background = "simulator", True
    create.settings.store = False
    with pytest.raises(Refusal) as refused:
        await server.engine.start(Identity("alice"), create)
    assert (refused.value.code, refused.value.param) == ("invalid_value", "store")
