"""How an issuer's keys are kept fresh, and what happens when they cannot be had."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from service.identity.issuer import Issuer, Pace, checked_url
from tests.service.identity.clock import Clock
from tests.service.identity.token_house import TokenHouse

QUICK = Pace(pause=0.05)


@pytest.fixture
async def house() -> AsyncIterator[TokenHouse]:
    async with TokenHouse.opened() as house:
        yield house


@asynccontextmanager
async def started(issuer: Issuer) -> AsyncIterator[Issuer]:
    await issuer.start()
    try:
        yield issuer
    finally:
        await issuer.stop()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def new_key(house: TokenHouse, kid: str) -> None:
    house.keys[kid] = (ec.generate_private_key(ec.SECP256R1()), "ES256")


async def test_keys_are_there_once_it_has_started(house: TokenHouse) -> None:
    async with started(Issuer(house.url, ["ES256"], house.jwks_url)) as issuer:
        assert issuer.key("ec", "ES256") is not None
        assert issuer.key("ec", "RS256") is None
        assert issuer.key("rsa", "RS256") is None


async def test_a_new_key_is_fetched_when_a_token_names_it(house: TokenHouse) -> None:
    async with started(Issuer(house.url, ["ES256"], house.jwks_url, QUICK)) as issuer:
        new_key(house, "next")
        assert issuer.key("next", "ES256") is None
        await until(lambda: issuer.key("next", "ES256"))


async def test_a_key_that_is_withdrawn_is_forgotten(house: TokenHouse) -> None:
    async with started(Issuer(house.url, ["ES256"], house.jwks_url, QUICK)) as issuer:
        new_key(house, "next")
        del house.keys["ec"]
        issuer.key("next", "ES256")
        await until(lambda: issuer.key("ec", "ES256") is None)
        assert issuer.key("next", "ES256") is not None


async def test_keys_are_fetched_again_after_a_while(house: TokenHouse) -> None:
    pace = Pace(fresh=0.02, pause=0.01)
    async with started(Issuer(house.url, ["ES256"], house.jwks_url, pace)):
        await until(lambda: house.asked >= 3)


async def test_many_unknown_names_are_one_question(house: TokenHouse) -> None:
    async with started(Issuer(house.url, ["ES256"], house.jwks_url, QUICK)) as issuer:
        for number in range(500):
            assert issuer.key(f"unknown {number}", "ES256") is None
        await until(lambda: house.asked == 2)
        await until(lambda: not issuer._asked.is_set())
        assert house.asked == 2


async def test_when_the_issuer_is_away_its_keys_are_kept(house: TokenHouse) -> None:
    clock = Clock()
    issuer = Issuer(house.url, ["ES256"], house.jwks_url, QUICK, clock)
    async with started(issuer):
        await house.close()
        with structlog.testing.capture_logs() as logged:
            assert issuer.key("unknown", "ES256") is None
            await until(lambda: logged)
            assert issuer.key("ec", "ES256") is not None
        assert [record["event"] for record in logged] == ["signing_keys_not_fetched"]
        assert str(house.port) not in str(logged)
        clock.now += Pace().stale
        assert issuer.key("ec", "ES256") is None
        await house.open()
        await until(lambda: issuer.key("ec", "ES256"))


async def test_a_service_starts_without_its_issuer_and_finds_it_later(house: TokenHouse) -> None:
    await house.close()
    async with started(Issuer(house.url, ["ES256"], house.jwks_url, QUICK)) as issuer:
        assert issuer.key("ec", "ES256") is None
        await house.open()
        await until(lambda: issuer.key("ec", "ES256"))


@pytest.mark.parametrize(
    "document", [[], {}, {"keys": []}, {"keys": {}}, {"keys": ["x"]}, {"keys": "x" * (1 << 21)}]
)
async def test_an_answer_without_keys_leaves_those_there_are(
    house: TokenHouse, document: object
) -> None:
    async with started(Issuer(house.url, ["ES256"], house.jwks_url, QUICK)) as issuer:
        house.document = lambda: document
        with structlog.testing.capture_logs() as logged:
            issuer.key("unknown", "ES256")
            await until(lambda: logged)
        assert issuer.key("ec", "ES256") is not None


async def test_of_very_many_keys_the_first_are_taken(house: TokenHouse) -> None:
    for number in range(100):
        house.keys[str(number)] = house.keys["ec"]
    async with started(Issuer(house.url, ["ES256"], house.jwks_url)) as issuer:
        assert issuer.key("10", "ES256") is not None
        assert issuer.key("99", "ES256") is None


class TestDiscovery:
    async def test_an_issuer_tells_where_its_keys_are(self, house: TokenHouse) -> None:
        async with started(Issuer(house.url, ["ES256"])) as issuer:
            assert issuer.key("ec", "ES256") is not None

    @pytest.mark.parametrize(
        "wrong",
        [
            {"issuer": "https://other.example"},
            {"issuer": None},
            {"jwks_uri": None},
            {"jwks_uri": "http://keys.example/keys"},
            {"jwks_uri": "file:///etc/passwd"},
            {"jwks_uri": "https://" + "a" * 80 + "/keys"},
        ],
    )
    async def test_a_document_that_may_not_be_followed_is_not(
        self, house: TokenHouse, wrong: dict[str, str | None]
    ) -> None:
        house.discovery.update(wrong)
        with structlog.testing.capture_logs() as logged:
            async with started(Issuer(house.url, ["ES256"])) as issuer:
                assert issuer.key("ec", "ES256") is None
        assert [record["event"] for record in logged] == ["signing_keys_not_fetched"]
        assert house.asked == 0


@pytest.mark.parametrize(
    "url",
    ["https://issuer.example", "https://[::1]:8/a?b=c", "http://127.0.0.1:1/k", "http://localhost"],
)
def test_keys_may_be_fetched_from_https_or_this_machine(url: str) -> None:
    assert checked_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "issuer.example",
        "http://issuer.example",
        "http://127.0.0.1.issuer.example",
        "http://127.0.0.1@issuer.example",
        "https://user:password@issuer.example",
        "https://",
        "https://a b",
        "https://a/\r\nHost: b",
        "https://a:port",
        "https://a#b",
        "ftp://a",
    ],
)
def test_and_from_nowhere_else(url: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the library has its own words too
        checked_url(url)
    assert "password" not in str(refused.value)
