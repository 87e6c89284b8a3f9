"""A client that is cut off picks its response up where it was, on another transport or replica."""

import asyncio
from collections.abc import AsyncIterator
from itertools import product
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.conformance.conversation import TERMINAL, Conversation, Heard
from tests.replicas.clients import FOLLOWING, ROWS, WAIT, api, talking
from tests.replicas.fleet import Fleet, fleet
from tests.replicas.process import until
from tests.replicas.replica import Replica
from tests.valkeys import ValkeyServer
from turnwire.v1 import events_pb2

pytestmark = pytest.mark.asyncio(loop_scope="module")

_WORDS = 30
_SLOWLY = f"#sim slow 0.05 ; text {_WORDS}"
_ENDLESS = "#sim slow 0.05 ; text 100000"
_HEARD = 8
"""Events after which the client is cut off."""


class CutOff(NamedTuple):
    """A response whose client has vanished."""

    id: str
    events: Heard
    """What it had heard."""

    @property
    def last(self) -> int:
        return self.events[-1].sequence_number


async def hear_some(chat: Conversation) -> Heard:
    """Hear the beginning of a turn."""
    heard = Heard()
    while len(heard) < _HEARD:
        heard.append(await chat.receive())
    return heard


async def cut_off(transport: str, replica: Replica, text: str = _SLOWLY) -> CutOff:
    """Ask for a response, hear its beginning, and vanish."""
    async with talking(transport, replica.address) as chat:
        await chat.send(input=text, store=True)
        events = await hear_some(chat)
        await chat.client.vanish()
    return CutOff(events[0].created.response.id, events)


async def rest_of(cut: CutOff, transport: str, replica: Replica) -> Heard:
    """Hear the rest of a response."""
    heard = Heard()
    async with asyncio.timeout(WAIT):
        async for event in FOLLOWING[transport](replica.address, cut.id, cut.last):
            if event.HasField("sequence_number"):
                heard.append(event)
    return heard


def expect_whole(cut: CutOff, rest: Heard) -> None:
    """Expect every event once, in order, up to the end, and all that the model said."""
    together: list[events_pb2.ServerEvent] = [*cut.events, *rest]
    assert [event.sequence_number for event in together] == list(range(len(together)))
    assert rest.kinds[-1] == "completed"
    assert not TERMINAL.intersection(rest.kinds[:-1])
    said = "".join(e.output_text_delta.delta for e in together if e.HasField("output_text_delta"))
    assert said == rest.text
    assert len(said.split()) == _WORDS


@pytest.mark.parametrize(("vanished", "back"), list(product(ROWS, FOLLOWING)))
async def test_who_vanished_hears_the_rest_at_the_same_replica(
    simulated: Fleet, vanished: str, back: str
) -> None:
    cut = await cut_off(vanished, simulated.here)
    expect_whole(cut, await rest_of(cut, back, simulated.here))


async def known(cut: CutOff, replica: Replica) -> str:
    """Wait until a replica knows a response; return how it stands. The young ones are known soon."""
    statuses = []

    async def found() -> bool:
        async with api(replica.address) as client:
            answer = await client.get(f"/responses/{cut.id}")
        assert answer.status_code in {200, 404}
        if answer.status_code == 200:
            statuses.append(answer.json()["status"])
        return bool(statuses)

    await until(found)
    return str(statuses[0])


@pytest.mark.parametrize(
    ("vanished", "back"), [*zip(ROWS, ("grpc", "http", "websocket"), strict=True)]
)
async def test_who_vanished_hears_the_rest_at_another_replica(
    simulated: Fleet, vanished: str, back: str
) -> None:
    cut = await cut_off(vanished, simulated.here)
    await known(cut, simulated.there)
    expect_whole(cut, await rest_of(cut, back, simulated.there))


async def test_who_asks_another_replica_before_the_end_waits_for_it(simulated: Fleet) -> None:
    cut = await cut_off("websocket", simulated.here, f"#sim slow 0.2 ; text {_WORDS}")
    assert await known(cut, simulated.there) == "in_progress"
    expect_whole(cut, await rest_of(cut, "http", simulated.there))


async def test_another_replica_can_cancel_what_goes_on_alone(simulated: Fleet) -> None:
    cut = await cut_off("grpc", simulated.here, _ENDLESS)
    await known(cut, simulated.there)
    async with api(simulated.there.address) as client:
        answer = await client.post(f"/responses/{cut.id}/cancel")
        assert answer.json()["status"] == "cancelled"
    async with api(simulated.here.address) as client:
        assert (await client.get(f"/responses/{cut.id}")).json()["status"] == "cancelled"


async def test_what_went_on_alone_can_be_continued_anywhere(simulated: Fleet) -> None:
    cut = await cut_off("websocket", simulated.here)
    await rest_of(cut, "http", simulated.here)
    async with talking("grpc", simulated.there.address) as chat:
        assert (await chat.sim("history", previous_response_id=cut.id)).text == "3"


async def test_what_was_not_to_be_stored_ends_with_its_client(simulated: Fleet) -> None:
    before = await simulated.here.sample("turnwire_turns_total", outcome="cancelled")
    async with talking("websocket", simulated.here.address) as chat:
        await chat.send(input=_ENDLESS, store=False)
        await hear_some(chat)
        await chat.client.vanish()

    async def ended() -> bool:
        now = await simulated.here.sample("turnwire_turns_total", outcome="cancelled")
        return now == before + 1

    await until(ended)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def impatient(
    valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    folder = tmp_path_factory.mktemp("impatient")
    async with fleet(folder, valkey.url, {"grace_seconds": "0.5"}) as running_fleet:
        yield running_fleet


@pytest.mark.parametrize("vanished", ROWS)
async def test_what_nobody_picks_up_in_time_is_cancelled_for_everybody(
    impatient: Fleet, vanished: str
) -> None:
    cut = await cut_off(vanished, impatient.here, _ENDLESS)
    for replica in impatient.replicas:
        async with api(replica.address) as client:

            async def over() -> bool:
                answer = await client.get(f"/responses/{cut.id}")
                return answer.status_code == 200 and answer.json()["status"] == "cancelled"

            await until(over, WAIT)
    assert await impatient.here.sample("turnwire_detached_turns") == 0


async def test_a_response_that_is_followed_is_not_given_up(impatient: Fleet) -> None:
    cut = await cut_off("websocket", impatient.here)
    expect_whole(cut, await rest_of(cut, "http", impatient.here))


async def _generated(running_fleet: Fleet) -> float:
    samples = [await r.sample("turnwire_output_tokens_total") for r in running_fleet.replicas]
    return sum(samples)


@pytest.mark.parametrize(("first", "again"), list(product(ROWS, ROWS)))
async def test_a_create_that_is_sent_again_elsewhere_is_the_same_response_generated_once(
    simulated: Fleet, first: str, again: str
) -> None:
    before = await _generated(simulated)
    key = f"{first} then {again}"
    async with talking(first, simulated.here.address) as chat:
        await chat.send(input=_SLOWLY, store=True, idempotency_key=key)
        events = await hear_some(chat)
        await chat.client.vanish()
    async with talking(again, simulated.there.address) as chat:
        heard = await chat.ask(_SLOWLY, store=True, idempotency_key=key)
    assert heard.id == events[0].created.response.id
    assert len(heard.text.split()) == _WORDS
    assert await _generated(simulated) == before + _WORDS


async def test_a_create_that_is_sent_again_when_it_has_ended_is_told_again(
    simulated: Fleet,
) -> None:
    asked = {"store": True, "idempotency_key": "ended"}
    async with talking("websocket", simulated.here.address) as chat:
        first = await chat.sim("text 3", **asked)
        again = await chat.sim("text 3", **asked)
    async with talking("grpc", simulated.there.address) as chat:
        elsewhere = await chat.sim("text 3", **asked)
    assert first.id == again.id == elsewhere.id
    assert first.text == again.text == elsewhere.text


async def test_the_header_is_as_good_as_the_member(simulated: Fleet) -> None:
    body = {"model": "simulator", "input": "hello", "store": True}
    ids = set()
    for replica in simulated.replicas:
        async with api(replica.address, {"Idempotency-Key": "in a header"}) as client:
            ids.add((await client.post("/responses", json=body)).json()["id"])
    assert len(ids) == 1


async def test_creates_at_once_with_one_key_on_both_replicas_are_one_response(
    simulated: Fleet,
) -> None:
    async def create(number: int) -> str:
        async with talking("websocket", simulated.replicas[number % 2].address) as chat:
            return (await chat.sim("text 3", store=True, idempotency_key="at once")).id

    async with asyncio.timeout(WAIT):
        assert len(set(await asyncio.gather(*map(create, range(10))))) == 1
