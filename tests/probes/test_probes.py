"""Some thousands of probes at a real service; and that the same probes would see what there is to be seen."""

import random
from pathlib import Path

import pytest

from tests.probes.customer import customer
from tests.probes.estate import Estate, Wealth
from tests.probes.findings import Findings, Form
from tests.probes.guesses import GUESSES
from tests.probes.house import STORES, House, Kept, house
from tests.probes.routes import ROUTES
from tests.probes.survey import Survey, probe, probers

_PROBES = 1000
_WEALTH = Wealth(responses=8, conversations=4, keys=36, running=4)
_OPEN = Wealth(responses=40, conversations=40, keys=36, running=0)
_BLIND = {
    "response.steer input",
    "response.interrupt",
    "GET /responses/{own.response}/input_items?after={name}",
    "ListInputItems of his own, after",
    "GET /conversations/{own.conversation}/items?after={name}",
    "GET /conversations/{own.conversation}/items/{name}",
    "DELETE /conversations/{own.conversation}/items/{name}",
    "ListItems of his own, after",
    "GetItem of his own",
    "DeleteItem of his own",
    "Start comparison_response_id",
}
"""Routes on which the owner of a name is told no more: it means something only where the thing is, or on
the connection that it is made on; and what is begun in the background is compared when it has ended."""


async def _probed(place: House, key: str, estate: Estate, count: int) -> Findings:
    survey = Survey(estate)
    await probe(await probers(place, key, survey, seed=random.getrandbits(32)), count)
    return survey.findings


@pytest.mark.parametrize("store", STORES)
async def test_nothing_of_anothers_is_told_or_changed(store: Kept, tmp_path: Path) -> None:
    async with house(store, tmp_path) as place, customer(place.address, place.alice) as alice:
        estate = Estate(alice)
        await estate.found(_WEALTH)
        findings = await _probed(place, place.bob, estate, _PROBES)
        assert findings.probes.total() == _PROBES
        assert findings.examples == []
        assert findings.hits.total() == findings.unsteady.total() == 0
        assert await estate.changes() == []


async def test_the_same_probes_by_the_owner_hit_on_every_route(tmp_path: Path) -> None:
    async with house("memory", tmp_path) as place, customer(place.address, place.alice) as alice:
        estate = Estate(alice)
        await estate.found(_OPEN)
        survey = Survey(estate)
        for prober in await probers(place, place.alice, survey, seed=1):
            async with prober.opening() as wire:
                for route in prober.routes:
                    kind = route.kinds[0]
                    form = Form(route, kind, GUESSES[kind][0])
                    await prober.put(prober.about_hers(form), wire)
        unseen = {route.name for route in ROUTES if not survey.findings.hits[route]}
        assert unseen == _BLIND


async def test_what_was_changed_is_noticed(tmp_path: Path) -> None:
    async with house("memory", tmp_path) as place, customer(place.address, place.alice) as alice:
        estate = Estate(alice)
        await estate.found(_WEALTH)
        for name in (estate.finished[0], estate.running[0]):
            await alice.delete(f"/responses/{name}")
        changes = await estate.changes()
        assert f"/responses/{estate.finished[0]}" in changes
        assert f"{estate.finished[0]} is not continued" in changes
        assert f"{estate.running[0]} had ended" in changes
