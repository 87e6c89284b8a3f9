"""One server through its lives: met, away, met anew."""

from prometheus_client import CollectorRegistry

from service.backends import Backend
from service.backends.simulator.backend import Simulator
from service.errors import ModelError, Unavailable
from service.metrics import Metrics
from service.servers import Server
from service.servers.member import Member, Pace


class Moody(Simulator):
    """Is well as long as it is told to be."""

    def __init__(self) -> None:
        super().__init__(["m"])
        self.started, self.stopped, self.well = False, False, True

    async def start(self) -> None:
        self.started = True
        await self.check()

    async def stop(self) -> None:
        self.stopped = True

    async def check(self) -> None:
        if not self.well:
            raise ModelError("server_error", "It is not well.")


class Maker:
    """Makes adapters, and remembers them."""

    def __init__(self) -> None:
        self.made: list[Moody] = []
        self.well = True

    def of(self, server: Server) -> Backend:
        assert server.kind == "chat"
        self.made.append(Moody())
        self.made[-1].well = self.well
        return self.made[-1]


REMOTE = Server(name="one", kind="chat", url="http://127.0.0.1:9")


def member(maker: Maker, server: Server = REMOTE, failures: int = 1) -> Member:
    return Member(server, maker.of, Pace(failures=failures), Metrics(CollectorRegistry()))


async def test_a_server_that_was_away_is_met_anew() -> None:
    maker = Maker()
    one = member(maker)
    await one.look()
    await one.look()
    [first] = maker.made
    first.well = False
    await one.look()
    assert not one.up
    await one.look()
    assert one.up
    assert one.backend is maker.made[1]
    assert first.stopped


async def test_what_could_not_be_met_is_let_go_of() -> None:
    maker = Maker()
    maker.well = False
    one = member(maker)
    await one.look()
    assert one.looked.is_set()
    assert not one.up
    assert one.failure
    assert [made.stopped for made in maker.made] == [True]
    assert one.models == {}


async def test_a_former_life_is_kept_until_its_last_turn_and_tells_nothing_any_more() -> None:
    maker = Maker()
    one = member(maker)
    await one.look()
    try:
        with one.turn():
            maker.made[0].well = False
            await one.look()
            await one.look()
            assert not maker.made[0].stopped
            assert one.candidate.load == 1
            one.failed(maker.made[0], Unavailable("server_error", "It broke off."))
            raise Unavailable("server_error", "It broke off.")
    except Unavailable:
        assert one.up
    await one.look()
    assert maker.made[0].stopped
    assert one.candidate.load == 0


async def test_a_server_of_this_process_is_not_loaded_twice() -> None:
    backend, maker = Moody(), Maker()
    server = Server(name="here", kind="embedded", here=lambda _: backend)
    one = Member(server, lambda _: backend, Pace(failures=1), Metrics(CollectorRegistry()))
    await one.look()
    backend.well, backend.started = False, False
    await one.look()
    assert not one.up
    backend.well = True
    await one.look()
    assert one.up
    assert not backend.started
    assert not maker.made


async def test_only_so_many_failures_in_a_row_take_it_down() -> None:
    maker = Maker()
    one = member(maker, failures=2)
    await one.look()
    one.answered()
    for error in ("server_error", "rate_limit_exceeded", "rate_limit_exceeded", "server_error"):
        assert one.up
        one.failed(maker.made[0], Unavailable(error, "No."))
    assert not one.up


async def test_a_server_lists_names_that_clients_can_be_told_and_not_without_end() -> None:
    listed = ["m", "", "a\nb", "x" * 257, "\x1b[2J", *(str(number) for number in range(10_000))]
    backend = Simulator(listed)
    server = Server(name="here", kind="embedded", here=lambda _: backend)
    one = Member(server, lambda _: backend, Pace(), Metrics(CollectorRegistry()))
    await one.look()
    assert list(one.models)[:3] == ["m", "0", "1"]
    assert len(one.models) == 4096


async def test_a_defect_is_a_failure_and_is_not_told() -> None:
    def broken(server: Server) -> Backend:
        raise LookupError(server.url)

    one = Member(REMOTE, broken, Pace(), Metrics(CollectorRegistry()))
    await one.look()
    assert not one.up
    assert one.failure
    assert REMOTE.url not in one.failure.message
