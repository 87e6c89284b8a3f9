"""`openai-agents` over its WebSocket transport."""

from agents import (
    Agent,
    ModelSettings,
    function_tool,
    responses_websocket_session,
    set_tracing_disabled,
)

from tests.clients.conftest import TURNS
from tests.conformance.server import Server


async def test_an_agent_with_a_tool_runs_for_twenty_turns(server: Server) -> None:
    steps: list[int] = []

    @function_tool
    def look(step: int) -> str:
        """Look around."""
        steps.append(step)
        return "a door"

    set_tracing_disabled(True)
    base = server.websocket_url.replace("ws://", "http://").removesuffix("/responses")
    agent = Agent(
        name="explorer",
        model="simulator",
        tools=[look],
        model_settings=ModelSettings(store=False),
    )
    async with responses_websocket_session(api_key=server.alice, base_url=base) as session:
        result = await session.run(agent, "go", auto_previous_response_id=True, max_turns=TURNS + 1)
    assert steps == list(range(TURNS - 1))
    assert result.final_output == "every turn carries only what"
    assert len(result.raw_responses) == TURNS


async def test_an_agent_streams_what_it_does(server: Server) -> None:
    @function_tool
    def look(step: int) -> str:
        """Look around."""
        return f"door {step}"

    set_tracing_disabled(True)
    base = server.websocket_url.replace("ws://", "http://").removesuffix("/responses")
    agent = Agent(name="explorer", model="simulator", tools=[look])
    async with responses_websocket_session(api_key=server.alice, base_url=base) as session:
        streaming = session.run_streamed(agent, "go", max_turns=TURNS + 1)
        kinds = [event.type async for event in streaming.stream_events()]
    assert kinds.count("run_item_stream_event") >= 2 * (TURNS - 1)
    assert streaming.final_output == "every turn carries only what"
