"""The whole service in front of each kind of model server, over each transport."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.front import Front
from tests.adapters.rows import ROWS as ADAPTERS
from tests.adapters.rows import Behaviour, Row
from tests.adapters.stage import staged
from tests.adapters.wire import WAIT
from tests.conformance.clients import ROWS as TRANSPORTS
from tests.conformance.conversation import Conversation, Heard
from tests.conformance.server import Server, serving
from tests.llama_servers import LlamaAddress, llama_address, tiny_weights

__all__ = ["llama_address", "tiny_weights"]
TOOLS = [
    {
        "type": "function",
        "name": name,
        "parameters": {
            "type": "object",
            "properties": {key: {"enum": values}},
            "required": [key],
            "additionalProperties": False,
        },
    }
    for name, key, values in (
        ("get_weather", "city", ["Oslo", "Lima"]),
        ("get_time", "zone", ["UTC", "CET"]),
    )
]


def able(behaviour: Behaviour) -> pytest.MarkDecorator:
    """Take the rows that can be asked for something."""
    rows = [row for row in ADAPTERS if behaviour not in row.cannot]
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


class Stage:
    """Starts the service in front of a row."""

    def __init__(self, llama: LlamaAddress, weights: Path, folder: Path) -> None:
        self._llama, self._weights, self._folder = llama, weights, folder

    @asynccontextmanager
    async def serving(self, row: Row) -> AsyncIterator[tuple[Front, Server]]:
        (keys := self._folder / "front").mkdir()
        async with (
            staged(row, self._llama, self._weights, self._folder) as front,
            serving(front.backend, keys) as server,
        ):
            yield front, server


@pytest.fixture
def stage(llama_address: LlamaAddress, tiny_weights: Path, tmp_path: Path) -> Stage:
    return Stage(llama_address, tiny_weights, tmp_path)


class Agent:
    """One conversation of an agent's."""

    def __init__(self, chat: Conversation, model: str) -> None:
        self.chat = chat
        self.model = model
        self.last: str | None = None

    async def ask(self, **members: Any) -> Heard:
        """Have a turn that continues the last one."""
        usual = {"temperature": 0, "max_output_tokens": 120, "tools": TOOLS, "store": True}
        continued = {"previous_response_id": self.last} if self.last else {}
        heard = await self.chat.ask(**{"model": self.model, **usual, **continued, **members})
        self.last = heard.id
        return heard

    async def call(self, name: str, **members: Any) -> str:
        """Have a function called; return which call that is."""
        heard = await self.ask(tool_choice={"type": "function", "name": name}, **members)
        assert heard.kinds[-1] == "completed"
        [item] = heard.response.output
        assert item.function_call.name == name
        (chosen,) = json.loads(item.function_call.arguments).values()
        assert chosen in {"Oslo", "Lima", "UTC", "CET"}
        return item.function_call.call_id


async def loop(agent: Agent) -> None:
    """Have a function called, tell what that brought, have it answered; then ask for more."""
    call = await agent.call("get_weather", text="What is it like?")
    brought = {"type": "function_call_output", "call_id": call, "output": "Fine."}
    answered = await agent.ask(input=[brought], tool_choice="none", max_output_tokens=9)
    more = await agent.ask(text="And then?", tool_choice="none", max_output_tokens=9)
    for heard in (answered, more):
        assert heard.kinds[-1] in {"completed", "incomplete"}
    assert more.response.usage.input_tokens > answered.response.usage.input_tokens


async def at_rest(server: Server) -> None:
    """Wait until the service has no turn left."""
    async with asyncio.timeout(WAIT):
        while sum(server.sample("turnwire_turns_inflight", transport=one) for one in TRANSPORTS):
            await asyncio.sleep(0)


@able("calls")
async def test_the_same_loop_of_an_agent_passes(
    stage: Stage, row: Row, subtests: pytest.Subtests
) -> None:
    async with stage.serving(row) as (front, server):
        for transport, connect in TRANSPORTS.items():
            with subtests.test(transport):
                async with connect(server, server.alice) as client:
                    await loop(Agent(Conversation(client), front.backend.models[0]))
        await at_rest(server)


@pytest.mark.rule("EV-1")
@able("wires")
async def test_a_plug_that_is_pulled_fails_the_response_and_the_lane_goes_on(
    stage: Stage, row: Row, subtests: pytest.Subtests
) -> None:
    async with stage.serving(row) as (front, server):
        for transport, connect in TRANSPORTS.items():
            with subtests.test(transport):
                async with connect(server, server.alice) as client:
                    await cut_off(Conversation(client), front)
                await at_rest(server)
                await front.until_working(0)


async def cut_off(chat: Conversation, front: Front) -> None:
    """Have the model server break off in the middle; then go on."""
    asked = {"model": front.backend.models[0], "temperature": 0, "store": False}
    endless = {"input": front.row.endless, "max_output_tokens": 3500, "ignore_eos": True}
    await chat.send(**asked, **endless)
    begun = await chat.hear_until("output_text_delta")
    front.wire.pull()
    ended = await chat.hear()
    assert ended.kinds[-1] == "failed"
    assert ended.response.error.code == "server_error"
    numbers = [event.sequence_number for event in [*begun, *ended]]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    heard = await chat.ask("Go on.", max_output_tokens=9, **asked)
    assert heard.kinds[-1] in {"completed", "incomplete"}
