"""How long answers take about names that are not Bob's to know, and whether that says anything.

Questions about names of all standings are asked in one random order, on one connection, one at a
time: whatever else happens to the machine happens to all of them alike.
"""

import gc
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from tests.probes.creates import MODEL, Own
from tests.probes.customer import Customer
from tests.probes.guesses import Kind, absent
from tests.probes.house import House
from tests.probes.route import Route
from tests.probes.routes import ROUTES
from tests.probes.samples import Comparison, Sample, compare
from tests.probes.stopwatch import WATCHES, shake_hands, timed

NAMES = 48
"""Of each standing: as many of nothing as of what there is, for what is asked often is answered faster."""
NEVER, CONTROL, OWN_DELETED = "never was", "never was, either", "his, deleted"
"""The control is what chance, and the luck of single names, make of no difference at all."""
_RUNNING = "#sim text 2 ; stall 3000"
_WARM = 100
"""Questions that are not timed, for every standing."""
TIMED = {
    ("HTTP", "GET /responses/{name}"),
    ("HTTP", "GET /responses/{name}?stream=true"),
    ("HTTP", "GET /responses/{name}/input_items"),
    ("HTTP", "DELETE /responses/{name}"),
    ("HTTP", "POST /responses/{name}/cancel"),
    ("HTTP", "POST /responses previous_response_id"),
    ("HTTP", "POST /responses item_reference"),
    ("HTTP", "GET /conversations/{name}"),
    ("HTTP", "GET /conversations/{name}/items"),
    ("HTTP", "DELETE /conversations/{name}"),
    ("WebSocket", "response.create previous_response_id"),
    ("WebSocket", "response.create conversation"),
    ("WebSocket", "response.resume"),
    ("gRPC call", "Get"),
    ("gRPC call", "Delete"),
    ("gRPC call", "GetConversation"),
}
Names = Mapping[str, Sequence[str]]
"""By standing."""


class Timing(NamedTuple):
    """One standing on one route, compared with what never was."""

    route: str
    standing: str
    median: float
    """In microseconds, of what never was."""
    compared: Comparison


async def standings(alice: Customer, bob: Customer) -> Mapping[Kind, Names]:
    """Make names of every standing."""
    names: dict[Kind, Names] = {
        Kind.RESPONSE: {
            NEVER: never_responses(),
            CONTROL: never_responses(),
            "hers": await responses_of(alice),
            "hers, running": [await _left_running(alice) for _ in range(NAMES)],
            "hers, deleted": [await _deleted(alice) for _ in range(NAMES)],
            OWN_DELETED: [await _deleted(bob) for _ in range(NAMES)],
        },
        Kind.CONVERSATION: {
            NEVER: [absent(Kind.CONVERSATION) for _ in range(NAMES)],
            CONTROL: [absent(Kind.CONVERSATION) for _ in range(NAMES)],
            "hers": [await alice.begin_conversation() for _ in range(NAMES)],
            OWN_DELETED: [await _deleted_conversation(bob) for _ in range(NAMES)],
        },
    }
    items = {
        standing: list(map(_first_item, some)) for standing, some in names[Kind.RESPONSE].items()
    }
    return {**names, Kind.ITEM: items}


def never_responses() -> Sequence[str]:
    """Return names of responses that never were."""
    return [absent(Kind.RESPONSE) for _ in range(NAMES)]


async def responses_of(who: Customer) -> Sequence[str]:
    """Make responses, and return their names."""
    return [await _asked(who) for _ in range(NAMES)]


def routes_timed() -> Sequence[Route]:
    """Return the routes whose answers are timed."""
    return [route for route in ROUTES if (route.transport, route.name) in TIMED]


def times(
    house: House, route: Route, names: Names, each: int, chance: random.Random
) -> Mapping[str, Sample]:
    """Ask `each` times about names of every standing; return the microseconds."""
    own = Own("", "", "", "")
    with WATCHES[route.transport](house.address, house.bob) as watch:
        asks = {
            standing: [watch.prepared(route.request(name, own)) for name in some]
            for standing, some in names.items()
        }
        return timed_at_random(asks, each, chance)


def times_of_keys(house: House, each: int, chance: random.Random) -> Mapping[str, Sample]:
    """Shake hands with keys that are wrong: of an id that there is, and of one that there is not."""
    known = house.alice.split("_")[1]
    secrets = [f"{chance.getrandbits(256):064x}" for _ in range(NAMES)]
    unknown = [f"{chance.getrandbits(32):08x}" for _ in range(NAMES)]
    asks = {
        NEVER: [
            shake_hands(house.address, f"tw_{key_id}_{secret}")
            for key_id, secret in zip(unknown, secrets, strict=True)
        ],
        "her key's id, another secret": [
            shake_hands(house.address, f"tw_{known}_{secret}") for secret in secrets
        ],
    }
    return timed_at_random(asks, each, chance)


def timed_at_random(
    asks: Mapping[str, Sequence[Callable[[], None]]], each: int, chance: random.Random
) -> Mapping[str, Sample]:
    """Do everything in one random order; return how many microseconds it took each time."""
    order = [standing for standing in asks for _ in range(each + _WARM)]
    chance.shuffle(order)
    taken: dict[str, list[float]] = {standing: [] for standing in asks}
    with _undisturbed():
        for standing in order:
            taken[standing].append(timed(chance.choice(asks[standing])))
    return {standing: sample[_WARM:] for standing, sample in taken.items()}


def compared(route: str, taken: Mapping[str, Sample], chance: random.Random) -> Iterator[Timing]:
    """Compare every standing with what never was."""
    never = taken[NEVER]
    median = sorted(never)[len(never) // 2]
    for standing, sample in taken.items():
        if standing != NEVER:
            yield Timing(route, standing, median, compare(never, sample, chance))


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no garbage be collected meanwhile."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _first_item(response: str) -> str:
    return f"msg_{response.removeprefix('resp_')}o0"


async def _asked(who: Customer) -> str:
    response: str = (await who.ask(input="what only I know"))["id"]
    return response


async def _left_running(who: Customer) -> str:
    asked = {"model": MODEL, "background": True, "input": _RUNNING}
    response: str = (await who.post("/responses", asked))["id"]
    return response


async def _deleted(who: Customer) -> str:
    response = await _asked(who)
    await who.delete(f"/responses/{response}")
    return response


async def _deleted_conversation(who: Customer) -> str:
    conversation = await who.begin_conversation()
    await who.delete(f"/conversations/{conversation}")
    return conversation
