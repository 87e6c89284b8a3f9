"""What tenants may have: told truly, counted, and never at another's cost."""

import dataclasses
import gc
import re

import pytest

from service.errors import RateLimited
from service.tenants import Allowance, Limit, Tenants


class House:
    """All tenants, under limits, a clock and a count of refusals that the test holds."""

    def __init__(self, allowance: Allowance) -> None:
        self.allowances = {"": allowance}
        self.now = 1000.0
        self.refused: list[Limit] = []
        self.tenants = Tenants(
            lambda tenant: self.allowances.get(tenant, self.allowances[""]),
            self.refused.append,
            lambda: self.now,
        )

    def refusal(self, tenant: str, size: int = 1) -> RateLimited:
        with pytest.raises(RateLimited) as refused:
            self.tenants.of(tenant).take(size)
        return refused.value


def test_without_limits_everything_is_had() -> None:
    account = Tenants().of("acme")
    for _ in range(100):
        account.open()
        account.take(10**9)
        account.spent(10**9)


def test_turns_are_refused_beyond_a_minutes_worth_in_words_that_help() -> None:
    house = House(Allowance(turns_per_minute=2))
    house.tenants.of("acme").take(1)
    house.tenants.of("acme").take(1)
    refusal = house.refusal("acme")
    assert (refusal.status, refusal.code) == (429, "rate_limit_exceeded")
    assert refusal.message == "Rate limit reached: 2 turns a minute. Please try again in 30s."
    assert refusal.headers == {"retry-after": "30"}
    assert house.refused == ["turns"]


def test_the_event_says_when_to_try_again_where_clients_look() -> None:
    house = House(Allowance(turns_per_minute=1))
    house.tenants.of("acme").take(1)
    event = house.refusal("acme").event().error
    assert event.headers["retry-after"] == event.error.headers["retry-after"] == "60"


def test_retry_after_is_whole_seconds_and_true() -> None:
    house = House(Allowance(turns_per_minute=7))
    for _ in range(7):
        house.tenants.of("acme").take(1)
    house.now += 0.5
    seconds = int(house.refusal("acme").headers["retry-after"])
    house.now += seconds - 1
    house.refusal("acme")
    house.now += 1
    house.tenants.of("acme").take(1)


def test_one_request_larger_than_a_minutes_worth_is_had_and_paid_for() -> None:
    house = House(Allowance(bytes_per_minute=1000))
    house.tenants.of("acme").take(5000)
    assert house.refusal("acme", 1).headers["retry-after"] == "241"
    assert house.refused == ["bytes"]


def test_tokens_are_known_afterwards_and_later_turns_wait_for_them() -> None:
    house = House(Allowance(tokens_per_minute=600))
    account = house.tenants.of("acme")
    account.take(1)
    account.take(1)
    account.spent(900)
    refusal = house.refusal("acme")
    assert "600 tokens a minute" in refusal.message
    assert house.refused == ["tokens"]
    house.now += int(refusal.headers["retry-after"])
    account.take(1)


def test_the_longest_wait_is_told() -> None:
    house = House(Allowance(turns_per_minute=1, bytes_per_minute=10))
    house.tenants.of("acme").take(100)
    assert "bytes" in house.refusal("acme").message


def test_a_refused_turn_costs_nothing() -> None:
    house = House(Allowance(turns_per_minute=10, bytes_per_minute=60))
    account = house.tenants.of("acme")
    account.take(60)
    for _ in range(50):
        house.refusal("acme", 60)
    house.now += 60
    for _ in range(9):
        account.take(1)


def test_connections_are_counted_while_they_are_open() -> None:
    house = House(Allowance(connections=2))
    account = house.tenants.of("acme")
    account.open()
    account.open()
    with pytest.raises(RateLimited, match="2 connections at once") as refused:
        account.open()
    assert int(refused.value.headers["retry-after"]) > 0
    assert house.refused == ["connections"]
    account.close()
    account.open()


def test_a_tenant_cannot_slow_another() -> None:
    house = House(Allowance(turns_per_minute=1, connections=1))
    house.tenants.of("loud").take(1)
    house.tenants.of("loud").open()
    house.tenants.of("quiet").take(1)
    house.tenants.of("quiet").open()


def test_changed_limits_apply_at_once() -> None:
    house = House(Allowance(turns_per_minute=1))
    account = house.tenants.of("acme")
    account.take(1)
    house.allowances["acme"] = Allowance()
    account.take(1)
    house.allowances["acme"] = Allowance(connections=1)
    account.open()
    with pytest.raises(RateLimited):
        account.open()


def test_a_suspended_tenant_is_told_apart() -> None:
    house = House(Allowance())
    house.allowances["acme"] = dataclasses.replace(Allowance(), suspended=True)
    assert house.tenants.suspended("acme")
    assert not house.tenants.suspended("other")
    assert house.tenants.of("acme").allowance.suspended


def test_what_was_had_is_remembered_while_nobody_holds_the_account() -> None:
    house = House(Allowance(turns_per_minute=1, connections=1))
    house.tenants.of("acme").take(1)
    house.tenants.of("acme").open()
    gc.collect()
    house.refusal("acme")
    with pytest.raises(RateLimited):
        house.tenants.of("acme").open()


def test_settled_accounts_are_forgotten_however_many_there_were() -> None:
    house = House(Allowance(turns_per_minute=60))
    for number in range(5000):
        house.now += 1
        house.tenants.of(f"tenant {number}").take(1)
    assert len(house.tenants._remembered) < 10


def test_no_number_of_tenants_fills_the_memory() -> None:
    tenants = Tenants(lambda _: Allowance(turns_per_minute=1), most_remembered=100)
    for number in range(1000):
        tenants.of(f"tenant {number}").take(1)
    assert len(tenants._remembered) == len(tenants._accounts) == 100


def test_a_debt_made_after_all_was_settled_is_remembered() -> None:
    house = House(Allowance(tokens_per_minute=60))
    account = house.tenants.of("acme")
    account.take(1)
    for number in range(10):
        house.tenants.of(f"other {number}").take(1)
    account.spent(1000)
    del account
    gc.collect()
    house.refusal("acme")


def test_no_refusal_names_the_tenant() -> None:
    house = House(Allowance(turns_per_minute=1, connections=1))
    account = house.tenants.of("canary-tenant")
    account.take(1)
    account.open()
    with pytest.raises(RateLimited) as refused:
        account.open()
    said = str(refused.value) + str(house.refusal("canary-tenant").event())
    assert not re.search("canary", said)
