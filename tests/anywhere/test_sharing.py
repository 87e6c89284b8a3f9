"""What replicas share: what one is told, the other knows; of two that change the same, one wins."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.conformance.conversation import Heard
from tests.replicas.clients import ROWS, WAIT, api, talking
from tests.replicas.fleet import Fleet
from tests.replicas.process import until
from tests.replicas.replica import Replica
from tests.valkeys import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

_CLIENTS = 50
_TURNS = 40
_FRESH = 30.0
"""Seconds for which a replica goes by what it holds."""


async def turn(replica: Replica, text: str = "hello", **members: Any) -> Heard:
    """Have one turn on a connection of its own."""
    async with talking("websocket", replica.address) as chat:
        return await chat.ask(text, **members)


def _calls(valkey: ValkeyServer) -> int:
    """Return how often functions were called: each is a round trip that reads or writes a record."""
    stats = valkey.run("INFO", "commandstats")
    return sum(
        int(stats.get(f"cmdstat_{name}", {}).get("calls", 0)) for name in ("fcall", "fcall_ro")
    )


@pytest.mark.parametrize("transport", ROWS)
async def test_what_one_deletes_the_other_does_not_continue(
    simulated: Fleet, transport: str
) -> None:
    heard = await turn(simulated.here, store=True)
    async with api(simulated.here.address) as here, api(simulated.there.address) as there:
        assert (await here.delete(f"/responses/{heard.id}")).status_code == 200
        assert (await there.get(f"/responses/{heard.id}")).status_code == 404
    async with talking(transport, simulated.there.address) as chat:
        refused = await chat.ask(previous_response_id=heard.id)
    assert refused.error.error.code == "previous_response_not_found"


@pytest.mark.faults
async def test_what_one_deletes_the_other_that_holds_it_soon_does_not_continue(
    simulated: Fleet,
) -> None:
    heard = await turn(simulated.here, store=True)
    asked: dict[str, Any] = {"previous_response_id": heard.id, "store": False}
    await turn(simulated.there, **asked)
    async with api(simulated.here.address) as here:
        assert (await here.delete(f"/responses/{heard.id}")).status_code == 200

    async def refused() -> bool:
        answer = await turn(simulated.there, **asked)
        return answer.kinds == ["error"]

    await until(refused, _FRESH + WAIT)


async def test_what_continued_a_deleted_response_goes_on_at_the_other(simulated: Fleet) -> None:
    first = await turn(simulated.here, "one", store=True)
    second = await turn(simulated.here, "two", previous_response_id=first.id)
    async with api(simulated.there.address) as there:
        assert (await there.delete(f"/responses/{first.id}")).status_code == 200
    third = await turn(simulated.there, "#sim history", previous_response_id=second.id)
    assert third.text == "5"


async def test_what_one_stored_the_other_retrieves_as_it_was_told(simulated: Fleet) -> None:
    heard = await turn(simulated.here, "#sim reasoning 2 ; text 9", metadata={"a": "b"})
    async with api(simulated.here.address) as here, api(simulated.there.address) as there:
        told = [await client.get(f"/responses/{heard.id}") for client in (here, there)]
        listed = [
            await client.get(f"/responses/{heard.id}/input_items") for client in (here, there)
        ]
    assert told[0].status_code == 200
    assert told[0].json() == told[1].json()
    assert listed[0].json() == listed[1].json()


async def test_a_conversation_is_known_to_both_and_goes_on_at_either(simulated: Fleet) -> None:
    async with api(simulated.here.address) as here, api(simulated.there.address) as there:
        items = [{"role": "user", "content": "one"}]
        made = (await here.post("/conversations", json={"items": items})).json()
        for number, replica in enumerate([*simulated.replicas, *simulated.replicas]):
            heard = await turn(replica, "#sim history", conversation=made["id"])
            assert heard.text == str(2 + 2 * number)
        told = [
            (await client.get(f"/conversations/{made['id']}/items")).json()
            for client in (here, there)
        ]
    assert len(told[0]["data"]) == 9
    assert told[0] == told[1]


async def test_of_two_changes_of_a_conversation_on_two_replicas_the_first_wins(
    simulated: Fleet,
) -> None:
    async with (
        api(simulated.here.address) as here,
        talking("websocket", simulated.there.address) as chat,
    ):
        made = (await here.post("/conversations", json={})).json()
        await chat.send(input="#sim text 1 ; stall 1 ; text 1", conversation=made["id"])
        await chat.hear_until("output_text_delta")
        added = {"items": [{"role": "user", "content": "first"}]}
        won = await here.post(f"/conversations/{made['id']}/items", json=added)
        assert won.status_code == 200
        lost = await chat.hear()
        assert lost.kinds[-1] == "failed"
        assert lost.response.error.code == "conversation_locked"
        left = (await here.get(f"/conversations/{made['id']}/items")).json()
    assert [item["content"][0]["text"] for item in left["data"]] == ["first"]


async def test_of_many_changes_at_once_none_that_was_accepted_is_lost(simulated: Fleet) -> None:
    async with api(simulated.here.address) as here, api(simulated.there.address) as there:
        made = (await here.post("/conversations", json={})).json()
        path = f"/conversations/{made['id']}/items"

        async def add(number: int) -> str | None:
            added = {"items": [{"role": "user", "content": f"item {number}"}]}
            answer = await (here, there)[number % 2].post(path, json=added)
            assert answer.status_code in {200, 409}, answer.text
            return f"item {number}" if answer.status_code == 200 else None

        accepted = {said for said in await asyncio.gather(*map(add, range(20))) if said}
        left = (await there.get(path, params={"limit": 100})).json()
    assert accepted
    assert {item["content"][0]["text"] for item in left["data"]} == accepted


async def test_fifty_who_continue_the_same_at_once_ask_the_store_once(
    simulated: Fleet, valkey: ValkeyServer
) -> None:
    heard = await turn(simulated.here, "one")
    asked = {"previous_response_id": heard.id, "store": False}
    await turn(simulated.there, store=False)
    before = _calls(valkey)
    async with AsyncExitStack() as stack:
        lines = [talking("websocket", simulated.there.address) for _ in range(_CLIENTS)]
        chats = [await stack.enter_async_context(line) for line in lines]
        told = await asyncio.gather(*(chat.ask("#sim history", **asked) for chat in chats))
    assert {heard.text for heard in told} == {"3"}
    assert _calls(valkey) - before == 1


async def test_a_cold_replica_fetches_a_conversation_at_once_and_a_warm_one_its_tail(
    simulated: Fleet, valkey: ValkeyServer
) -> None:
    heard = await turn(simulated.here, "begin")
    async with talking("websocket", simulated.here.address) as chat:
        for _ in range(_TURNS - 1):
            heard = await chat.ask("on", previous_response_id=heard.id)
    assert await _fetched(simulated.there, valkey, heard) == (1, _TURNS)
    heard = await turn(simulated.here, "more", previous_response_id=heard.id)
    assert await _fetched(simulated.there, valkey, heard) == (1, 1)


async def _fetched(replica: Replica, valkey: ValkeyServer, heard: Heard) -> tuple[int, float]:
    """Continue a response; return how often the store was asked, and for how many responses."""
    calls, records = _calls(valkey), await replica.sample("turnwire_hydrated_records_sum")
    await turn(replica, previous_response_id=heard.id, store=False)
    after = await replica.sample("turnwire_hydrated_records_sum")
    return _calls(valkey) - calls, after - records
