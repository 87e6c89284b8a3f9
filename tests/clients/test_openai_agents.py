"""`openai-agents` over its WebSocket transport."""

from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    Tool,
    function_tool,
    responses_websocket_session,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

from service.backends.simulator.backend import Simulator
from service.backends.simulator.script import Script
from service.errors import NotFound
from tests.clients.conftest import TURNS
from tests.conformance.server import Server, serving

STORE = ModelSettings(store=True)
DO_NOT_STORE = ModelSettings(store=False)
PARALLEL = (
    'call look {"where":"north"} ; call take {"what":"lamp"} ; call look {"where":"south"}',
    'call go {"where":"south"} ; text 2',
    'call take {"what":"key"}',
    "text 5",
)


@pytest.fixture(autouse=True)
def _no_tracing() -> None:
    set_tracing_disabled(True)


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[Server]:
    """Serve a model that uses three tools, several of them in one turn."""
    async with serving(Simulator(script=Script(*PARALLEL)), tmp_path) as started:
        yield started


def at(server: Server) -> dict[str, Any]:
    base = server.websocket_url.replace("ws://", "http://").removesuffix("/responses")
    return {"api_key": server.alice, "base_url": base}


def explorer(settings: ModelSettings, *tools: Tool) -> Agent[None]:
    return Agent(name="explorer", model="simulator", tools=list(tools), model_settings=settings)


class House:
    """Three tools, and what they were used for."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def tools(self) -> list[Tool]:
        @function_tool
        def look(where: str) -> str:
            """Look around."""
            self.calls.append(f"look {where}")
            return f"a door in the {where}"

        @function_tool
        def take(what: str) -> str:
            """Take a thing."""
            self.calls.append(f"take {what}")
            return "taken"

        @function_tool
        def go(where: str) -> str:
            """Go through a door."""
            self.calls.append(f"go {where}")
            return "a hall"

        return [look, take, go]


async def test_an_agent_with_a_tool_runs_for_twenty_turns(server: Server) -> None:
    steps: list[int] = []

    @function_tool
    def look(step: int) -> str:
        """Look around."""
        steps.append(step)
        return "a door"

    agent = explorer(DO_NOT_STORE, look)
    async with responses_websocket_session(**at(server)) as session:
        result = await session.run(agent, "go", auto_previous_response_id=True, max_turns=TURNS + 1)
    assert steps == list(range(TURNS - 1))
    assert result.final_output == "every turn carries only what"
    assert len(result.raw_responses) == TURNS


async def test_an_agent_streams_what_it_does(server: Server) -> None:
    @function_tool
    def look(step: int) -> str:
        """Look around."""
        return f"door {step}"

    async with responses_websocket_session(**at(server)) as session:
        streaming = session.run_streamed(explorer(STORE, look), "go", max_turns=TURNS + 1)
        kinds = [event.type async for event in streaming.stream_events()]
    assert kinds.count("run_item_stream_event") >= 2 * (TURNS - 1)
    assert streaming.final_output == "every turn carries only what"


@pytest.mark.parametrize("settings", [STORE, DO_NOT_STORE], ids=["stored", "not stored"])
@pytest.mark.parametrize("chained", [True, False], ids=["by id", "all of it each turn"])
async def test_an_agent_streams_a_conversation_of_several_tools(
    house: Server, settings: ModelSettings, chained: bool
) -> None:
    inside = House()
    agent = explorer(settings, *inside.tools())
    async with responses_websocket_session(**at(house)) as session:
        streaming = session.run_streamed(agent, "go", auto_previous_response_id=chained)
        names = [
            event.name
            async for event in streaming.stream_events()
            if event.type == "run_item_stream_event"
        ]
    assert sorted(inside.calls[:3]) == ["look north", "look south", "take lamp"]
    assert inside.calls[3:] == ["go south", "take key"]
    assert names.count("tool_called") == names.count("tool_output") == 5
    assert streaming.final_output == "every turn carries only what"
    stored = [await is_stored(house, response.response_id) for response in streaming.raw_responses]
    assert stored == [settings is STORE] * 4


async def test_an_agent_goes_on_where_an_earlier_run_ended(house: Server) -> None:
    agent = explorer(DO_NOT_STORE, *House().tools())
    async with responses_websocket_session(**at(house)) as session:
        first = await session.run(agent, "go", auto_previous_response_id=True)
        again = await session.run(agent, "and now?", previous_response_id=first.last_response_id)
    assert first.final_output == "every turn carries only what"
    assert again.final_output == "and now?"
    assert again.raw_responses[0].usage.input_tokens_details.cached_tokens > 0


async def test_an_agent_streams_into_a_conversation_that_the_server_keeps(house: Server) -> None:
    inside = House()
    agent = explorer(STORE, *inside.tools())
    async with AsyncOpenAI(**at(house)) as client:
        kept = await client.conversations.create(metadata={"topic": "a house"})
        async with responses_websocket_session(**at(house)) as session:
            streaming = session.run_streamed(agent, "go", conversation_id=kept.id)
            async for _ in streaming.stream_events():
                pass
            again = await session.run(agent, "and now?", conversation_id=kept.id)
        items = [item async for item in client.conversations.items.list(kept.id, order="asc")]
    assert streaming.final_output == "every turn carries only what"
    assert again.final_output == "and now?"
    kinds = Counter(item.type for item in items)
    assert kinds == {"message": 5, "function_call": 5, "function_call_output": 5}
    assert len({item.id for item in items}) == len(items)


async def test_an_agents_memory_may_be_a_conversation(house: Server) -> None:
    agent = explorer(DO_NOT_STORE, *House().tools())
    async with AsyncOpenAI(**at(house)) as client:
        memory = OpenAIConversationsSession(openai_client=client)
        async with responses_websocket_session(**at(house)) as session:
            await session.run(agent, "go", session=memory)
            result = await session.run(agent, "and now?", session=memory)
        remembered = await memory.get_items()
        last = await memory.pop_item()
        await memory.clear_session()
    assert result.final_output == "and now?"
    assert Counter(item.get("type", "message") for item in remembered) == {
        "message": 5,
        "function_call": 5,
        "function_call_output": 5,
    }
    assert last == remembered[-1]


async def is_stored(server: Server, response_id: str | None) -> bool:
    assert response_id
    try:
        await server.engine.responses.get("alice", response_id)
    except NotFound:
        return False
    return True
