"""What may be had in a minute, by a clock that the test moves."""

import math

from hypothesis import given
from hypothesis import strategies as st

from service.tenants.buckets import MINUTE, Bucket

RATES = st.floats(1, 1e9)
AMOUNTS = st.floats(0, 1e6)


def test_a_minutes_worth_is_there_at_once_and_the_next_one_as_it_refills() -> None:
    bucket = Bucket()
    for _ in range(60):
        assert bucket.wait(1, 60, now=100.0) == 0
        bucket.take(1, 60, now=100.0)
    assert bucket.wait(1, 60, now=100.0) == 1.0
    assert bucket.wait(1, 60, now=101.0) == 0


def test_a_debt_is_waited_for() -> None:
    bucket = Bucket()
    bucket.take(300, 60, now=0.0)
    assert bucket.wait(1, 60, now=0.0) == 241.0


def test_more_than_a_minutes_worth_is_had_from_a_full_bucket() -> None:
    bucket = Bucket()
    bucket.take(1, 60, now=0.0)
    assert bucket.wait(1000, 60, now=0.0) == 1.0
    assert bucket.wait(1000, 60, now=1.0) == 0


def test_a_new_limit_counts_from_now_on() -> None:
    bucket = Bucket()
    bucket.take(600, 600, now=0.0)
    assert bucket.wait(1, 6, now=0.0) == 10.0
    assert bucket.wait(1, math.inf, now=0.0) == 0


def test_what_is_unlimited_leaves_no_trace() -> None:
    bucket = Bucket()
    bucket.take(10**9, math.inf, now=5.0)
    assert bucket.full(5.0)


@given(st.lists(st.tuples(AMOUNTS, st.floats(0, 100)), max_size=30), AMOUNTS, RATES)
def test_whoever_waits_as_told_is_served(
    taken: list[tuple[float, float]], amount: float, rate: float
) -> None:
    bucket, now = Bucket(), 1000.0
    for some, later in taken:
        bucket.take(some, rate, now)
        now += later
    assert bucket.wait(amount, rate, now + bucket.wait(amount, rate, now)) == 0


@given(st.lists(st.tuples(AMOUNTS, st.floats(0, 10)), min_size=1, max_size=30), RATES)
def test_no_minute_gives_more_than_two_minutes_worth(
    wanted: list[tuple[float, float]], rate: float
) -> None:
    bucket, now, had, began = Bucket(), 0.0, 0.0, 0.0
    for amount, later in wanted:
        now += later
        if amount <= rate and bucket.wait(amount, rate, now) == 0:
            bucket.take(amount, rate, now)
            had += amount
    assert had <= rate * (1 + (now - began) / MINUTE) * (1 + 1e-6)
