"""What Envoy does with the configuration in deploy/envoy: whom it takes where, and whom it keeps."""

import asyncio

import pytest
from openai import AsyncOpenAI

from tests.conformance.conversation import Conversation
from tests.replicas.clients import ROWS, talking
from tests.replicas.envoy import CONVERSATION
from tests.replicas.fleet import Fleet
from tests.replicas.process import until
from tests.replicas.replica import Replica

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def turns(replica: Replica) -> float:
    """Return how many turns a replica has had."""
    return await replica.sample("turnwire_turns_total")


async def test_a_conversation_comes_to_one_replica_over_every_transport(simulated: Fleet) -> None:
    for replica in simulated.replicas:
        name = await simulated.conversation_at(replica)
        before = await turns(replica)
        for transport in ROWS:
            for _ in range(4):
                async with talking(transport, simulated.address, name) as chat:
                    await chat.ask(store=False)
        assert await turns(replica) == before + 4 * len(ROWS)


@pytest.mark.parametrize("transport", ROWS)
async def test_without_a_name_conversations_come_to_all_replicas(
    simulated: Fleet, transport: str
) -> None:
    before = [await turns(replica) for replica in simulated.replicas]
    for _ in range(16):
        async with talking(transport, simulated.address) as chat:
            await chat.ask(store=False)
    after = [await turns(replica) for replica in simulated.replicas]
    assert all(now > then for now, then in zip(after, before, strict=True))


async def test_a_conversation_goes_on_elsewhere_at_once_when_its_replica_is_killed(
    simulated: Fleet,
) -> None:
    name = await simulated.conversation_at(simulated.here)
    async with talking("websocket", simulated.address, name) as chat:
        heard = await chat.ask("one", store=True)
    await simulated.here.process.kill()
    for transport in ROWS:
        async with talking(transport, simulated.address, name) as chat:
            told = await chat.sim("history", previous_response_id=heard.id)
            assert told.text == "3"
    await simulated.bring_back(simulated.here)


async def test_a_replica_that_goes_away_finishes_its_turns_and_is_sent_nobody_new(
    simulated: Fleet,
) -> None:
    name = await simulated.conversation_at(simulated.here)
    async with talking("websocket", simulated.address, name) as chat:
        await chat.send(input="#sim slow 0.1 ; text 20", store=True)
        await chat.hear_until("output_text_delta")
        stopping = asyncio.create_task(simulated.here.process.stop())

        async def left() -> bool:
            return not await simulated.envoy.healthy(simulated.here.name)

        await until(left)
        async with talking("grpc", simulated.address, name) as other:
            assert (await other.ask("elsewhere")).text == "elsewhere"
        heard = await chat.hear()
    assert heard.kinds[-1] == "completed"
    assert await stopping == 0
    async with talking("http", simulated.address, name) as chat:
        assert (await _history(chat, heard.id)) == "3"
    await simulated.bring_back(simulated.here)


async def test_the_openai_package_goes_on_with_a_conversation_through_envoy(
    simulated: Fleet,
) -> None:
    last = None
    async with AsyncOpenAI(base_url=simulated.address.http_url, api_key="none") as client:
        for number in range(4):
            answer = await client.responses.create(
                model="simulator",
                input="#sim history",
                previous_response_id=last,
                extra_headers={CONVERSATION: f"anywhere {number}"},
            )
            assert answer.output_text == str(2 * number + 1)
            last = answer.id


async def _history(chat: Conversation, response_id: str) -> str:
    return (await chat.sim("history", previous_response_id=response_id)).text
