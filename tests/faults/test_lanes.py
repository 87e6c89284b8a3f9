"""Sixteen lanes, fifty forks on each, and faults, on every transport that has connections."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conformance.clients import ROWS
from tests.conformance.server import serving
from tests.faults.acts import SCRIPTS, VERBS, Act, at_random
from tests.faults.lanes import play, play_in_process
from tests.faults.recital import Reciting

ACTS = st.builds(
    Act,
    verb=st.sampled_from(VERBS),
    lane=st.integers(0, 2),
    pick=st.integers(0, 3),
    store=st.sampled_from([None, True, False]),
    script=st.sampled_from(SCRIPTS),
    ticks=st.integers(0, 2),
)


@pytest.mark.rule("EV-1", "EV-2", "EV-3", "EV-7", "EV-8", "EV-9", "EV-12", "LN-1", "LN-2", "LN-8")
@pytest.mark.rule("SS-2", "SS-4", "SS-5", "SS-6", "SS-7", "SS-8", "SS-9", "SS-10", "CR-8", "CR-19")
@pytest.mark.rule("RV-1", "RV-2", "RV-3", "RV-4", "ST-3", "ST-4", "ST-7", "IN-1", "LV-6", "LV-7")
@pytest.mark.parametrize("seed", range(6))
async def test_every_create_is_answered_once_in_its_lane_whatever_happens(seed: int) -> None:
    await play_in_process(at_random(seed, lanes=16, turns=50))


@pytest.mark.rule("EV-1", "EV-3", "LN-1", "SS-6")
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=st.lists(ACTS, max_size=25))
async def test_whatever_few_acts_a_client_does_every_create_is_answered(
    acts: Sequence[Act],
) -> None:
    """Finds less than a long program, but makes it small."""
    await play_in_process(acts)


@pytest.mark.rule("EV-1", "EV-2", "EV-3", "LN-1", "LN-8", "SS-2", "SS-5", "LV-6")
@pytest.mark.parametrize("row", ["websocket", "grpc"])
async def test_so_it_is_over_the_wire(row: str, tmp_path: Path) -> None:
    simulator = Reciting()
    async with serving(simulator, tmp_path) as server:
        acts = at_random(7, lanes=8, turns=15)
        await play(server.engine, simulator, lambda: ROWS[row](server, server.alice), acts)
