"""One model on several servers: where turns go, and what becomes of them when servers go."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

import pytest

from service.backends import Finished, Produced, Prompt, Text
from service.backends.simulator.backend import Simulator, Speed
from service.conversation import Segment
from service.errors import ModelError, Unavailable
from service.servers.member import Pace
from tests.service.backends.llama_cpp.conversing import converse, prompt, user
from tests.service.servers.llamas import SLOW, Llama, fleet_of, here, reached, until
from tests.stand_ins.cut import cut


class Failing(Simulator):
    """Says so much before it breaks off, or never breaks off."""

    def __init__(self, error: ModelError | None = None, says: int = 0) -> None:
        super().__init__(["m"])
        self.error = error
        self.asked: list[Prompt] = []
        self._says = says

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        self.asked.append(prompt)
        for _ in range(self._says if self.error else 0):
            yield [Text("said")]
        if self.error:
            raise self.error
        async with aclosing(super().generate(prompt)) as batches:
            async for batch in batches:
                yield batch


def gone() -> Unavailable:
    return Unavailable("server_error", "It is gone.")


def busy() -> Unavailable:
    return Unavailable("rate_limit_exceeded", "It is busy.")


async def test_conversations_stay_where_their_cache_is(llamas: list[Llama]) -> None:
    one, two = llamas
    servers = (one.server("one"), two.server("two"))
    async with fleet_of(*servers, pace=SLOW) as place:
        backend = place.router.backend("tiny")
        histories: dict[str, list[Segment]] = {f"conversation {number}": [] for number in range(2)}
        for turn in range(3):
            for name, history in histories.items():
                asked = prompt(user(f"{name} {turn} " * 20), history=history, conversation=name)
                answered = await converse(backend, asked)
                held = sum(next(iter(one.rendered.values())).tokens for one in history)
                assert (
                    answered.finished.cached_tokens >= held - 3
                )  # its last token, and what closes it
                history.append(answered.segment)
    assert place.sample("turnwire_affinity_total", result="new") == 2
    assert place.sample("turnwire_affinity_total", result="hit") == 4


class Hanging(Simulator):
    """Takes turns and says nothing to them, nor to those who ask how it is."""

    async def check(self) -> None:
        raise gone()

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        await asyncio.Event().wait()
        yield []


async def test_a_turn_that_waits_for_a_server_which_hangs_goes_elsewhere() -> None:
    hanging, well = Hanging(["m"]), Simulator(["m"])
    pace = Pace(interval=0.01, check=1, failures=3)
    async with fleet_of(here("hanging", hanging), here("well", well), pace=pace) as place:
        asked = [prompt(user("hello"), conversation=str(number)) for number in range(8)]
        backend = place.router.backend("m")
        async with asyncio.timeout(10):
            turns = await asyncio.gather(*(converse(backend, one) for one in asked))
    assert all(turn.finished.output_tokens for turn in turns)


async def test_a_turn_goes_elsewhere_when_its_server_is_gone(llamas: list[Llama]) -> None:
    one, two = llamas
    servers = (one.server("one"), two.server("two"))
    async with fleet_of(*servers, pace=SLOW) as place:
        backend = place.router.backend("tiny")
        first = await converse(backend, prompt(user("hello")))
        one.kill()
        again = prompt(user("again"), history=[first.segment])
        second = await converse(backend, again)
        two.kill()
        one.start()
        third = await converse(backend, prompt(user("more"), history=[first.segment]))
    assert second.finished.output_tokens
    assert third.finished.output_tokens
    assert place.sample("turnwire_server_retries_total", reason="unavailable") >= 1


async def test_a_server_that_goes_in_the_middle_fails_the_turn(llamas: list[Llama]) -> None:
    async with cut(llamas[0].url) as wire, cut(llamas[1].url) as other:
        servers = (reached("one", wire.url), reached("two", other.url))
        async with fleet_of(*servers, pace=SLOW) as place:
            backend = place.router.backend("tiny")
            long = prompt(user("hello"), max_output_tokens=4000, extra='{"ignore_eos": true}')
            async with aclosing(backend.generate(long)) as batches:
                assert await anext(batches)
                (wire if place.turns("one") else other).pull()
                with pytest.raises(Unavailable):
                    async for _ in batches:
                        pass
            assert place.turns("one") == place.turns("two") == 0
            assert place.sample("turnwire_server_retries_total", reason="unavailable") == 0
            assert (await converse(backend, prompt(user("again")))).finished.output_tokens


async def test_a_server_that_goes_before_the_first_token_is_not_noticed(
    llamas: list[Llama],
) -> None:
    async with AsyncExitStack() as one, AsyncExitStack() as two:
        wires = [await one.enter_async_context(cut(llamas[0].url))]
        wires += [await two.enter_async_context(cut(llamas[1].url))]
        servers = [reached(str(number), wire.url) for number, wire in enumerate(wires)]
        async with fleet_of(*servers, pace=SLOW) as place:
            turn = asyncio.ensure_future(
                converse(place.router.backend("tiny"), prompt(user("hello " * 600)))
            )
            await until(lambda: place.turns("0") + place.turns("1") == 1)
            await (one if place.turns("0") else two).aclose()
            assert (await turn).finished.output_tokens
            assert place.sample("turnwire_server_retries_total", reason="unavailable") == 1


async def test_what_was_begun_is_not_begun_again() -> None:
    servers = [Failing(gone(), says=1), Failing(gone(), says=1)]
    async with fleet_of(*(here(str(n), one) for n, one in enumerate(servers)), pace=SLOW) as place:
        produced: list[Produced] = []
        with pytest.raises(Unavailable, match="gone"):  # noqa: PT012
            async with aclosing(place.router.backend("m").generate(prompt(user("hi")))) as batches:
                async for batch in batches:
                    produced += batch
    assert produced == [Text("said")]
    assert sorted(len(one.asked) for one in servers) == [0, 1]


async def test_each_server_is_asked_once_and_not_all_of_many() -> None:
    servers = [Failing(gone()) for _ in range(6)]
    async with fleet_of(*(here(str(n), one) for n, one in enumerate(servers)), pace=SLOW) as place:
        with pytest.raises(Unavailable, match="gone"):
            await converse(place.router.backend("m"), prompt(user("hi")))
        assert sorted(len(one.asked) for one in servers) == [0, 0, 0, 1, 1, 1]
        assert place.sample("turnwire_server_retries_total", reason="unavailable") == 2


async def test_a_request_that_is_to_blame_is_not_tried_elsewhere() -> None:
    servers = [Failing(ModelError("invalid_prompt", "No.")) for _ in range(2)]
    async with fleet_of(*(here(str(n), one) for n, one in enumerate(servers)), pace=SLOW) as place:
        with pytest.raises(ModelError, match="No"):
            await converse(place.router.backend("m"), prompt(user("hi")))
    assert sum(len(one.asked) for one in servers) == 1


async def test_busy_servers_are_not_down() -> None:
    server = Failing(busy())
    async with fleet_of(here("busy", server), here("idle", Simulator(["m"])), pace=SLOW) as place:
        for number in range(20):
            await converse(place.router.backend("m"), prompt(user("hi"), conversation=str(number)))
        assert place.up("busy")
        assert place.sample("turnwire_server_retries_total", reason="busy") == len(server.asked)
    assert server.asked


async def test_turns_take_a_server_down_that_says_it_is_well() -> None:
    broken = Failing(gone())
    async with fleet_of(here("broken", broken), here("good", Simulator(["m"])), pace=SLOW) as place:
        for number in range(40):
            await converse(place.router.backend("m"), prompt(user("hi"), conversation=str(number)))
        assert not place.up("broken")
        assert len(broken.asked) == 1


class Choking(Simulator):
    """Is well, but for requests of one kind."""

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        if "poison" in prompt.extra_json:
            raise gone()
        async with aclosing(super().generate(prompt)) as batches:
            async for batch in batches:
                yield batch


@pytest.mark.parametrize("count", [1, 2, 4])
async def test_a_turn_that_servers_choke_on_takes_none_of_them_down(count: int) -> None:
    servers = [here(str(number), Choking(["m"])) for number in range(count)]
    async with fleet_of(*servers, pace=SLOW) as place:
        backend = place.router.backend("m")
        for _ in range(10):
            with pytest.raises(Unavailable):
                await converse(backend, prompt(user("hi"), extra='{"poison": true}'))
        assert all(place.up(server.name) for server in servers)
        assert (await converse(backend, prompt(user("hi")))).text


async def test_closing_a_turn_stops_the_server_and_frees_its_place() -> None:
    slow = Simulator(["m"], speed=Speed(tokens_per_second=20))
    async with fleet_of(here("slow", slow)) as place:
        async with aclosing(place.router.backend("m").generate(prompt(user("a b c d")))) as turn:
            await anext(turn)
            assert place.sample("turnwire_server_turns_inflight", server="slow") == 1
        assert (slow.running, slow.cancelled) == (0, 1)
        assert place.sample("turnwire_server_turns_inflight", server="slow") == 0


async def test_an_overloaded_server_yields() -> None:
    simulators = {n: Simulator(["m"], speed=Speed(first_token=3600)) for n in ("a", "b")}
    async with fleet_of(*(here(name, one) for name, one in simulators.items())) as place:
        backend = place.router.backend("m")
        turns = [asyncio.ensure_future(converse(backend, prompt(user("x")))) for _ in range(8)]
        await until(lambda: sum(one.running for one in simulators.values()) == 8)
        loads = sorted(one.running for one in simulators.values())
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)
    assert loads[0] >= 2
    assert place.sample("turnwire_affinity_total", result="busy") >= 2


async def test_weight_zero_point_one_takes_a_tenth() -> None:
    simulators = {n: Simulator(["m"], speed=Speed(first_token=3600)) for n in ("big", "small")}
    big, small = (
        here("big", simulators["big"], weight=9.0),
        here("small", simulators["small"], weight=1.0),
    )
    async with fleet_of(big, small) as place:
        backend = place.router.backend("m")
        asked = [prompt(user("x"), conversation=str(number)) for number in range(20)]
        turns = [asyncio.ensure_future(converse(backend, one)) for one in asked]
        await until(lambda: sum(one.running for one in simulators.values()) == 20)
        assert simulators["small"].running <= 3
        for turn in turns:
            turn.cancel()
        await asyncio.gather(*turns, return_exceptions=True)


async def test_a_server_is_told_its_own_name_of_the_model() -> None:
    upstream = Failing()
    server = here("one", upstream, models={"fast": "org/fast-8b"})
    async with fleet_of(server) as place:
        await converse(place.router.backend("fast"), prompt(user("hi")))
    assert [asked.model for asked in upstream.asked] == ["org/fast-8b"]


async def test_a_warm_up_goes_where_the_turn_goes() -> None:
    simulators = [Simulator(["m"]) for _ in range(3)]
    async with fleet_of(*(here(str(n), one) for n, one in enumerate(simulators))) as place:
        backend = place.router.backend("m")
        asked = prompt(user("warm " * 50))
        await backend.prepare(asked)
        turn = await converse(backend, asked)
    assert isinstance(turn.finished, Finished)
    assert turn.finished.cached_tokens > 0
    assert sum(one.prefilled_tokens > 0 for one in simulators) == 1
