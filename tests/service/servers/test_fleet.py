"""All servers together: which models there are, and which servers are up."""

import asyncio
from pathlib import Path

import pytest

from service.backends.simulator.backend import Simulator
from service.errors import ModelError, Unavailable
from service.servers import Server
from service.servers.member import Pace
from tests.service.backends.llama_cpp.conversing import converse, prompt, user
from tests.service.servers.llamas import Llama, fleet_of, here, until


async def test_a_server_that_comes_back_is_asked_again(llamas: list[Llama]) -> None:
    one, two = llamas
    async with fleet_of(one.server("one"), two.server("two")) as place:
        backend = place.router.backend("tiny")
        one.kill()
        two.kill()
        await until(lambda: not place.up("one") and not place.up("two"))
        with pytest.raises(Unavailable):
            await converse(backend, prompt(user("hello")))
        one.start()
        await until(lambda: place.up("one"))
        assert (await converse(backend, prompt(user("hello")))).finished.output_tokens


async def test_a_server_that_comes_back_with_another_model_serves_that(weights: Path) -> None:
    llama = Llama(weights)
    llama.start()
    async with fleet_of(llama.server("one")) as place:
        assert place.router.models == [("tiny", "llama.cpp")]
        llama.kill()
        await until(lambda: not place.up("one"))
        assert [name for name, _ in place.router.models] == ["tiny"]
        llama.alias = "other"
        llama.start()
        await until(lambda: place.up("one"))
        assert place.router.models == [("other", "llama.cpp")]
        await converse(place.router.backend("other"), prompt(user("hello")))
    llama.kill()


async def test_a_server_that_is_down_at_the_start_joins_later(weights: Path) -> None:
    llama = Llama(weights)
    named = llama.server("late", models={"m": "tiny"})
    async with fleet_of(named, here("simulator", Simulator(["s"]))) as place:
        assert [name for name, _ in place.router.models] == ["m", "s"]
        with pytest.raises(Unavailable):
            await converse(place.router.backend("m"), prompt(user("hello")))
        llama.start()
        await until(lambda: place.up("late"))
        assert (await converse(place.router.backend("m"), prompt(user("hello")))).text
    llama.kill()


async def test_it_stops_at_the_start_where_that_is_wanted(weights: Path) -> None:
    down = Llama(weights).server("down", models={"m": "tiny"})
    with pytest.raises(ModelError, match=r"^down: "):
        async with fleet_of(down, strict=True):
            pass
    async with fleet_of(
        down, here("spare", Simulator(["s"]), models={"m": "s"}), strict=True
    ) as place:
        assert (await converse(place.router.backend("m"), prompt(user("hello")))).text


async def test_a_kind_that_is_not_known_is_found_out(weights: Path) -> None:
    llama = Llama(weights)
    llama.start()
    async with fleet_of(Server(name="one", url=llama.url)) as place:
        assert place.router.models == [("tiny", "llama.cpp")]
    llama.kill()


async def test_a_check_that_never_ends_is_a_failure() -> None:
    class Hanging(Simulator):
        async def check(self) -> None:
            await asyncio.Event().wait()

    pace = Pace(interval=0.01, check=0.01, failures=2)
    async with fleet_of(here("hanging", Hanging(["m"])), pace=pace) as place:
        await until(lambda: not place.up("hanging"))
        with pytest.raises(Unavailable):
            await place.router.backend("m").check()


async def test_one_model_of_several_kinds_says_so(weights: Path) -> None:
    llama = Llama(weights)
    llama.start()
    async with fleet_of(llama.server("one"), here("two", Simulator(["tiny"]))) as place:
        assert place.router.models == [("tiny", "pool")]
    llama.kill()


async def test_a_model_that_a_server_lists_takes_no_name_of_the_operators() -> None:
    listing, named = Simulator(["mine", "short", "own"]), Simulator(["s"])
    servers = here("listing", listing), here("named", named, models={"mine": "s"})
    async with fleet_of(*servers, aliases={"short": "mine"}) as place:
        assert [name for name, _ in place.router.models] == ["mine", "own", "short"]
        for name in ("mine", "short") * 3:
            await converse(place.router.backend(name), prompt(user("hello")))
        assert not listing.prefilled_tokens
        await converse(place.router.backend("own"), prompt(user("hello")))
        assert listing.prefilled_tokens
