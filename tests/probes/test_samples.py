"""The statistics: known figures, and what they have to find and not to find."""

import math
import random

import pytest

from tests.probes.samples import compare, kolmogorov_smirnov, mann_whitney, median_shift


def _drawn(seed: int, count: int, shift: float = 0.0, spread: float = 1.0) -> list[float]:
    chance = random.Random(seed)
    return [chance.lognormvariate(0.0, spread) + shift for _ in range(count)]


def test_pairs_are_counted() -> None:
    # the second is larger: 0 never, 2 than one, 5 and 6 than all three
    assert mann_whitney([1, 3, 4], [0, 2, 5, 6]).statistic == 7


def test_a_tie_is_half_a_pair() -> None:
    assert mann_whitney([1, 2], [2, 2]).statistic == 3


def test_mann_and_whitneys_p_is_the_one_of_the_textbooks() -> None:
    first, second = list(range(20)), [value + 6.5 for value in range(20)]
    larger = sum(one < other for one in first for other in second)
    z = (larger - 200) / math.sqrt(20 * 20 * 41 / 12)
    assert mann_whitney(first, second).p == pytest.approx(math.erfc(z / math.sqrt(2)))


def test_samples_of_one_value_are_alike() -> None:
    assert mann_whitney([1, 1], [1, 1]).p == 1
    assert kolmogorov_smirnov([1, 1], [1, 1]).p == 1


def test_distribution_functions_are_farthest_apart_where_they_are() -> None:
    assert kolmogorov_smirnov([1, 2, 3, 4], [3, 4, 5, 6]).statistic == pytest.approx(0.5)


def test_kolmogorovs_p_is_the_one_of_the_tables() -> None:
    # 1.358 standardised is the table's value for 5 %
    n = 100_000
    first = [k / n for k in range(n)]
    apart = 1.358 / math.sqrt(n / 2)
    second = [value + apart for value in first]
    assert kolmogorov_smirnov(first, second).p == pytest.approx(0.05, abs=0.002)


def test_a_difference_in_shape_alone_is_seen_by_one_of_them() -> None:
    compared = compare(_normal(1, 3000, 1.0), _normal(2, 3000, 1.5), random.Random(3))
    assert compared.shapes.p < 1e-6
    assert compared.auc == pytest.approx(0.5, abs=0.03)


def test_a_shift_is_found_with_its_size() -> None:
    compared = compare(_drawn(1, 4000), _drawn(2, 4000, shift=0.2), random.Random(3))
    assert compared.p < 1e-6
    assert compared.shift.low < 0.2 < compared.shift.high
    assert compared.shift.low > 0
    assert compared.auc > 0.53


def test_where_there_is_no_difference_one_is_found_as_often_as_it_says() -> None:
    found = [
        compare(_drawn(2 * seed, 200), _drawn(2 * seed + 1, 200), random.Random(seed))
        for seed in range(400)
    ]
    assert 0.02 < sum(one.ranks.p < 0.05 for one in found) / 400 < 0.09
    assert 0.01 < sum(one.shapes.p < 0.05 for one in found) / 400 < 0.09
    within = sum(one.shift.low <= 0 <= one.shift.high for one in found) / 400
    assert 0.9 < within < 0.99


def test_the_interval_is_that_of_a_bootstrap() -> None:
    first, second = _drawn(1, 300), _drawn(2, 300, shift=0.3)
    chance = random.Random(5)
    resampled = sorted(
        _median(chance.choices(second, k=300)) - _median(chance.choices(first, k=300))
        for _ in range(2000)
    )
    shift = median_shift(first, second, random.Random(6))
    assert shift.low == pytest.approx(resampled[50], abs=0.04)
    assert shift.high == pytest.approx(resampled[-50], abs=0.04)


def _normal(seed: int, count: int, spread: float) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(0, spread) for _ in range(count)]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
