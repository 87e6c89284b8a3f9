"""Responses that outlive their client, and creates that are sent twice (docs/protocol.md, RC-1 to RC-4)."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.connection import ConnectionLimits
from service.engine import EngineLimits
from tests.conformance.clients import Connect
from tests.conformance.conftest import Talk
from tests.conformance.conversation import WAIT, Conversation, Heard
from tests.conformance.gated import Gated
from tests.conformance.server import Server, serving
from turnwire import json_codec
from turnwire.v1 import events_pb2

HALF = "#sim text 3 ; stall 0 ; text 3"


async def resume(chat: Conversation, response_id: str, **members: int) -> Heard:
    frame = json.dumps({"type": "response.resume", "response_id": response_id, **members})
    await chat.client.send(json_codec.decode(events_pb2.ClientEvent, frame))
    return await chat.hear()


async def lose(chat: Conversation, **members: object) -> Heard:
    """Begin a turn, hear a part of it, and go away."""
    await chat.send(input=HALF, **members)
    heard = await chat.hear_until("output_text_delta")
    await chat.client.vanish()
    return heard


async def until_kept(server: Server, response_id: str, status: str) -> None:
    async with asyncio.timeout(WAIT):
        while (await server.engine.responses.get("alice", response_id)).status != status:
            await asyncio.sleep(0.005)


@pytest.fixture
async def hurried(model: Gated, tmp_path: Path) -> AsyncIterator[Server]:
    """A server that gives up what nobody listens to almost at once."""
    limits = EngineLimits(connection=ConnectionLimits(grace=0.05))
    async with serving(model, tmp_path, limits) as started:
        yield started


@pytest.mark.rule("RC-1")
async def test_a_stored_response_goes_on_when_its_client_goes(
    chat: Conversation, gated: Server, model: Gated
) -> None:
    heard = await lose(chat)
    model.gate.set()
    await until_kept(gated, heard[0].created.response.id, "completed")
    assert model.cancelled == 0
    assert gated.sample("turnwire_detached_turns") in (0, 1)


@pytest.mark.rule("RC-1")
async def test_what_nobody_picks_up_is_cancelled(
    hurried: Server, connect: Connect, model: Gated
) -> None:
    async with connect(hurried, hurried.alice) as client:
        heard = await lose(Conversation(client))
    await until_kept(hurried, heard[0].created.response.id, "cancelled")
    assert hurried.sample("turnwire_detachments_total", outcome="given_up") == 1
    assert hurried.sample("turnwire_detached_turns") == 0


@pytest.mark.rule("RC-1")
async def test_who_follows_a_response_keeps_it_going(
    hurried: Server, connect: Connect, model: Gated
) -> None:
    async with connect(hurried, hurried.alice) as client:
        chat = Conversation(client)
        await chat.send(input=HALF)
        response_id = (await chat.hear_until("output_text_delta"))[0].created.response.id
        batches = await hurried.engine.responses.follow("alice", response_id, None)
        await anext(batches)
        await client.vanish()
    async with asyncio.timeout(WAIT):
        while not hurried.sample("turnwire_detached_turns"):
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.2)  # several times the grace
    model.gate.set()
    async with asyncio.timeout(WAIT):
        last = [event async for batch in batches for event in batch][-1]
    assert isinstance(last, events_pb2.ServerEvent)
    assert last.HasField("completed")


@pytest.mark.rule("RC-1")
async def test_a_tenant_has_only_so_many_without_a_client(
    connect: Connect, model: Gated, tmp_path: Path
) -> None:
    async with serving(model, tmp_path, EngineLimits(background=1)) as server:
        for status in ("in_progress", "cancelled"):
            async with connect(server, server.alice) as client:
                heard = await lose(Conversation(client))
            await until_kept(server, heard[0].created.response.id, status)


@pytest.mark.connection
@pytest.mark.rule("RC-2")
async def test_it_is_picked_up_after_any_event_on_another_connection(
    talk: Talk, server: Server
) -> None:
    async with talk() as chat:
        heard = await chat.sim("reasoning 2 ; text 4 ; call f {}")
    async with talk() as chat:
        assert await resume(chat, heard.id) == heard
        for number in range(len(heard) - 1):
            assert await resume(chat, heard.id, starting_after=number) == heard[number + 1 :]


@pytest.mark.connection
@pytest.mark.rule("RC-2")
async def test_what_is_still_to_come_is_told_as_it_happens(
    gated: Server, connect: Connect, model: Gated
) -> None:
    async with connect(gated, gated.alice) as client:
        heard = await lose(Conversation(client))
    response_id, after = heard[0].created.response.id, heard[-1].sequence_number
    async with connect(gated, gated.alice) as client:
        chat = Conversation(client)
        rest = asyncio.create_task(resume(chat, response_id, starting_after=after))
        await asyncio.sleep(0.05)
        assert not rest.done()
        model.gate.set()
        numbers = [event.sequence_number for event in await rest]
        assert numbers == list(range(after + 1, after + 1 + len(numbers)))
        following = await chat.ask("Go on.", previous_response_id=response_id)
        assert following.kinds[-1] == "completed"


@pytest.mark.connection
@pytest.mark.rule("RC-2", "SS-4")
async def test_nothing_is_told_of_what_is_not_there_or_not_ones_own(
    talk: Talk, server: Server
) -> None:
    async with talk() as chat:
        foreign = (await chat.ask("Hello.")).id
        unstored = (await chat.ask("Hello.", store=False)).id
    async with talk(server.bob) as chat:
        errors = [await resume(chat, one) for one in (foreign, unstored, "resp_never")]
    told = {(heard.error.status, heard.error.error.code) for heard in errors}
    assert told == {(404, "not_found")}


@pytest.mark.rule("RC-3")
async def test_the_same_create_under_the_same_key_has_the_same_response(
    gated: Server, connect: Connect, model: Gated
) -> None:
    model.gate.set()
    async with connect(gated, gated.alice) as client:
        first = await Conversation(client).ask("Hello.", idempotency_key="once")
    async with connect(gated, gated.alice) as client:
        chat = Conversation(client)
        assert await chat.ask("Hello.", idempotency_key="once") == first
        following = await chat.ask("Go on.", previous_response_id=first.id)
    assert following.kinds[-1] == "completed"
    assert model.begun == 2


@pytest.mark.rule("RC-3")
async def test_a_create_that_was_lost_in_the_middle_is_taken_up_from_the_beginning(
    gated: Server, connect: Connect, model: Gated
) -> None:
    async with connect(gated, gated.alice) as client:
        lost = await lose(Conversation(client), idempotency_key="once")
    async with connect(gated, gated.alice) as client:
        chat = Conversation(client)
        await chat.send(input=HALF, idempotency_key="once")
        again = await chat.hear_until("output_text_delta")
        assert again[: len(lost)] == lost[: len(again)]
        model.gate.set()
        assert (await chat.hear()).id == lost[0].created.response.id
    assert model.begun == 1


@pytest.mark.connection
@pytest.mark.rule("RC-3")
async def test_it_is_told_on_the_lane_that_asks(talk: Talk) -> None:
    async with talk() as chat:
        first = await chat.ask("Hello.", idempotency_key="once")
        again = await chat.ask("Hello.", idempotency_key="once", stream_id="other")
        assert {event.stream_id for event in again} == {"other"}
        assert again.id == first.id
        steered = await chat.ask("Go on.", previous_response_id=first.id, stream_id="other")
        assert steered.kinds[-1] == "completed"


@pytest.mark.rule("RC-3")
async def test_two_tenants_may_use_the_same_key(talk: Talk, server: Server) -> None:
    async with talk() as chat:
        alices = await chat.ask("Hello.", idempotency_key="once")
    async with talk(server.bob) as chat:
        assert (await chat.ask("Hello.", idempotency_key="once")).id != alices.id


@pytest.mark.rule("RC-3")
async def test_what_was_deleted_is_made_again(talk: Talk, server: Server) -> None:
    async with talk() as chat:
        first = await chat.ask("Hello.", idempotency_key="once")
        await server.engine.responses.delete("alice", first.id)
        assert (await chat.ask("Hello.", idempotency_key="once")).id != first.id


@pytest.mark.rule("RC-4")
async def test_a_key_stands_for_one_request(talk: Talk) -> None:
    async with talk() as chat:
        await chat.ask("Hello.", idempotency_key="once")
        refused = await chat.ask("Something else.", idempotency_key="once")
    assert refused.error.status == 409
    assert refused.error.error.code == "idempotency_key_reused"


@pytest.mark.rule("RC-4")
@pytest.mark.parametrize("members", [{"store": False}, {"idempotency_key": ""}])
async def test_a_key_is_refused_where_it_could_not_be_kept(
    talk: Talk, members: dict[str, object]
) -> None:
    async with talk() as chat:
        refused = await chat.ask("Hello.", **{"idempotency_key": "once", **members})
    assert refused.error.error.param == "idempotency_key"
