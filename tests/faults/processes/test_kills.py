"""Replicas are killed in mid-turn, again and again; what clients were promised is kept."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.faults.processes.customers import Customer, at_work
from tests.faults.processes.tally import Tally
from tests.replicas.clients import ROWS
from tests.replicas.fleet import Fleet, fleet
from tests.replicas.process import until
from tests.replicas.replica import Replica
from tests.valkeys import running

pytestmark = pytest.mark.faults

_KILLS = 50
_MOST_SECONDS = 20
"""For all clients to be served again after a kill."""
_EACH = 2
"""Clients on each transport."""


async def test_fifty_replicas_killed_in_mid_turn_lose_nothing_that_was_promised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tally, random_moments = Tally(f"{_KILLS} times kill -9 in mid-turn"), random.Random(5)
    with running("valkey-9") as valkey:
        async with fleet(tmp_path, valkey.url) as two:
            customers = [
                Customer(transport, two.address, tally, conversation=f"{transport} {number}")
                for transport in ROWS
                for number in range(_EACH)
            ]
            async with at_work(customers):
                for number in range(_KILLS):
                    victim, survivor = two.replicas[:: 1 - 2 * (number % 2)]
                    known = len(tally.promised)
                    await _kill_in_mid_turn(victim, random_moments.uniform(0, 0.1))
                    before = tally.promised[known:]
                    await _all_served(customers)
                    await tally.verify(survivor.address, before)
                    await two.bring_back(victim)
            await two.restart()  # what was promised must be in the store, and not in memory
            await tally.verify(two.here.address, tally.promised)
            await _expect_nothing_left(two)
    with capsys.disabled():
        tally.show()
    tally.expect_kept()
    assert tally.cut >= _KILLS
    assert set(tally.told) <= {"server_is_overloaded"}


async def _kill_in_mid_turn(victim: Replica, moment: float) -> None:
    async def works() -> bool:
        return await victim.sample("turnwire_turns_inflight") > 0

    await until(works)
    await asyncio.sleep(moment)  # any moment of a turn must do
    await victim.process.kill()


async def _all_served(customers: list[Customer]) -> None:
    async with asyncio.timeout(_MOST_SECONDS):
        await asyncio.gather(*(customer.served() for customer in customers))


async def _expect_nothing_left(two: Fleet) -> None:
    for replica in two.replicas:
        assert await replica.sample("turnwire_turns_inflight") == 0
        assert await replica.sample("turnwire_detached_turns") == 0
