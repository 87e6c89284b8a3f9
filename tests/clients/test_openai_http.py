"""The `openai` SDK over HTTP, asynchronous and not: everything that it can ask of responses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response, ResponseStreamEvent

from service.backends.simulator.backend import Simulator
from tests.conformance.server import Server, serving

WAIT = 10.0
T = TypeVar("T")


@pytest.fixture
def simulator() -> Simulator:
    return Simulator()


@pytest.fixture
async def server(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(simulator, tmp_path) as started:
        yield started


def options(server: Server) -> dict[str, Any]:
    base = server.websocket_url.replace("ws://", "http://").removesuffix("/responses")
    return {"base_url": base, "api_key": server.alice, "max_retries": 0, "timeout": WAIT}


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(**options(server)) as client:
        yield client


@pytest.fixture
def blocking(server: Server) -> Iterator[OpenAI]:
    with OpenAI(**options(server)) as client:
        yield client


async def in_thread(call: Callable[[], T]) -> T:
    async with asyncio.timeout(WAIT):
        return await asyncio.to_thread(call)


def directives(text: str, **members: Any) -> dict[str, Any]:
    return {"model": "simulator", "input": f"#sim {text}", **members}


def finished(event: ResponseStreamEvent) -> Response:
    assert event.type == "response.completed", event
    return event.response


@pytest.mark.rule("HT-1", "HT-3")
async def test_a_response_is_created_and_continued(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="simulator", input="hello")
    assert first.output_text == "hello"
    assert first._request_id
    second = await client.responses.create(
        model="simulator", input="and?", previous_response_id=first.id
    )
    assert (second.output_text, second.previous_response_id) == ("and?", first.id)
    assert second.usage
    assert second.usage.input_tokens_details.cached_tokens > 0


async def test_a_response_is_created_by_a_client_that_blocks(blocking: OpenAI) -> None:
    first = await in_thread(lambda: blocking.responses.create(model="simulator", input="hello"))
    assert first.output_text == "hello"
    events = await in_thread(
        lambda: list(blocking.responses.create(**directives("text 3"), stream=True))
    )
    assert finished(events[-1]).output_text == "every turn carries"
    again = await in_thread(lambda: blocking.responses.retrieve(first.id))
    assert again.output_text == "hello"
    items = await in_thread(lambda: list(blocking.responses.input_items.list(first.id)))
    assert [item.type for item in items] == ["message"]


async def test_a_stream_is_helped_along_by_the_sdk(client: AsyncOpenAI) -> None:
    async with client.responses.stream(**directives("reasoning 2 ; text 5")) as stream:
        events = [event async for event in stream]
        response = await stream.get_final_response()
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == response.output_text == "every turn carries only what"


async def test_tools_are_called_and_answered(client: AsyncOpenAI) -> None:
    call = await client.responses.create(**directives('call look {"step": 1}'))
    [item] = call.output
    assert item.type == "function_call"
    output: Any = {"type": "function_call_output", "call_id": item.call_id, "output": "a door"}
    answer = await client.responses.create(
        model="simulator", input=[output], previous_response_id=call.id
    )
    assert answer.output_text == "a door"


async def test_what_fails_is_told_as_the_sdk_expects(client: AsyncOpenAI) -> None:
    failed = await client.responses.create(**directives("fail server_error"))
    assert (failed.status, failed.error and failed.error.code) == ("failed", "server_error")
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="gpt-0", input="hello")
    assert (refused.value.code, refused.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="gpt-0", input="hello", stream=True)
    assert refused.value.code == "model_not_found"
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="tw_no_key").responses.create(model="simulator")


@pytest.mark.rule("SS-10")
async def test_leaving_a_stream_stops_the_model(client: AsyncOpenAI, simulator: Simulator) -> None:
    stream = await client.responses.create(
        **directives("text 3 ; stall 3600"), store=False, stream=True
    )
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    async with asyncio.timeout(WAIT):
        while simulator.running:
            await asyncio.sleep(0)
    assert simulator.cancelled == 1


async def test_turns_are_counted_as_what_they_were(client: AsyncOpenAI, server: Server) -> None:
    await client.responses.create(model="simulator", input="hello")
    async for _ in await client.responses.create(model="simulator", input="hello", stream=True):
        pass
    with pytest.raises(openai.BadRequestError):
        await client.responses.create(model="gpt-0", input="hello")
    name = "turnwire_turns_total"
    outcomes = ("ok", "refused", "cancelled")
    counts = [server.sample(name, transport="http", outcome=outcome) for outcome in outcomes]
    assert counts == [2, 1, 0]
    assert server.sample("turnwire_connections_open", transport="http") == 0


async def test_a_server_that_goes_away_lets_responses_finish(
    client: AsyncOpenAI, server: Server
) -> None:
    stream = await client.responses.create(**directives("text 20"), stream=True)
    events = [await anext(stream)]
    await server.engine.drain(WAIT)
    events += [event async for event in stream]
    assert finished(events[-1]).output_text
    with pytest.raises(openai.InternalServerError) as refused:
        await client.responses.create(model="simulator", input="hello")
    assert refused.value.code == "server_is_overloaded"
    assert refused.value.response.headers["Retry-After"]


async def test_a_server_that_cannot_wait_tells_how_a_response_ended(
    client: AsyncOpenAI, server: Server
) -> None:
    stream = await client.responses.create(**directives("text 1 ; stall 3600"), stream=True)
    async with asyncio.timeout(WAIT):
        async for event in stream:
            if event.type == "response.output_text.delta":
                await server.engine.drain(0)
    assert event.type == "response.failed"


@pytest.mark.rule("HT-3", "RV-2")
async def test_a_response_is_retrieved_whole_and_as_the_events_it_was(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(**directives("reasoning 2 ; text 5"), stream=True)
    live = [event async for event in stream]
    response = finished(live[-1])
    assert await client.responses.retrieve(response.id) == response
    again = await client.responses.retrieve(response.id, stream=True)
    assert [event async for event in again] == live
    rest = await client.responses.retrieve(response.id, stream=True, starting_after=4)
    assert [event async for event in rest] == live[5:]


@pytest.mark.rule("HT-3", "RV-4")
async def test_a_response_that_is_deleted_is_gone(client: AsyncOpenAI) -> None:
    response = await client.responses.create(model="simulator", input="hello")
    await client.responses.delete(response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(response.id, stream=True)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(response.id)


@pytest.mark.rule("CR-13", "RV-3")
async def test_a_response_in_the_background_is_watched_and_cancelled(
    client: AsyncOpenAI, simulator: Simulator
) -> None:
    response = await client.responses.create(**directives("text 2 ; stall 3600"), background=True)
    assert response.status in {"queued", "in_progress"}
    kinds = []
    async with asyncio.timeout(WAIT):
        async for event in await client.responses.retrieve(response.id, stream=True):
            kinds.append(event.type)
            if event.type == "response.output_text.delta" and simulator.running:
                cancelled = await client.responses.cancel(response.id)
                assert cancelled.status == "cancelled"
    assert kinds[0] == "response.created"
    assert (await client.responses.retrieve(response.id)).status == "cancelled"
    assert simulator.running == 0


async def test_a_response_in_the_background_streams_at_once(client: AsyncOpenAI) -> None:
    stream = await client.responses.create(**directives("text 3"), background=True, stream=True)
    events = [event async for event in stream]
    assert finished(events[-1]).output_text == "every turn carries"


@pytest.mark.rule("HT-3", "RV-5")
async def test_input_items_come_in_pages(client: AsyncOpenAI) -> None:
    items: Any = [{"role": "user", "content": f"number {number}"} for number in range(5)]
    response = await client.responses.create(model="simulator", input=items)
    pages = client.responses.input_items.list(response.id, limit=2, order="asc")
    messages: list[Any] = [item async for item in pages]
    texts = [message.content[0].text for message in messages]
    assert texts == [f"number {number}" for number in range(5)]


@pytest.mark.rule("HT-3", "CV-1", "CV-2")
async def test_a_conversation_is_kept_and_read(client: AsyncOpenAI) -> None:
    hello: Any = {"type": "message", "role": "user", "content": "hello"}
    conversation = await client.conversations.create(items=[hello], metadata={"a": "b"})
    assert (await client.conversations.retrieve(conversation.id)).metadata == {"a": "b"}
    response = await client.responses.create(
        model="simulator", input="and?", conversation=conversation.id
    )
    assert response.conversation
    assert response.conversation.id == conversation.id
    items = [item async for item in client.conversations.items.list(conversation.id, order="asc")]
    assert [getattr(item, "role", None) for item in items] == ["user", "user", "assistant"]
    added = await client.conversations.items.create(conversation.id, items=[hello])
    [item] = added.data
    assert item.id
    kept = await client.conversations.items.retrieve(item.id, conversation_id=conversation.id)
    assert kept.id == item.id
    await client.conversations.items.delete(item.id, conversation_id=conversation.id)
    await client.conversations.update(conversation.id, metadata={"a": "c"})
    assert (await client.conversations.retrieve(conversation.id)).metadata == {"a": "c"}
    assert (await client.conversations.delete(conversation.id)).deleted
    with pytest.raises(openai.NotFoundError):
        await client.conversations.retrieve(conversation.id)


@pytest.mark.rule("HT-3")
async def test_models_are_listed(client: AsyncOpenAI, blocking: OpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["simulator"]
    assert (await client.models.retrieve("simulator")).object == "model"
    assert [model.id for model in await in_thread(blocking.models.list)] == ["simulator"]
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-0")


@pytest.mark.rule("CP-2")
async def test_a_conversation_goes_on_from_its_compaction(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model="simulator", input="hello " * 50)
    compacted = await client.responses.compact(model="simulator", previous_response_id=first.id)
    assert compacted.object == "response.compaction"
    assert compacted.output[-1].type == "compaction"
    window: Any = [item.model_dump(exclude_none=True) for item in compacted.output]
    answer = await client.responses.create(
        model="simulator", input=[*window, {"role": "user", "content": "and?"}]
    )
    assert answer.output_text == "and?"
