"""Whether two sets of measurements can be told apart: by ranks, so that no outlier says anything.

Pure: chance is an argument.
"""

import math
import random
import statistics
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

Sample = Sequence[float]
_RESAMPLES = 2000
_TERMS = 100


class Test(NamedTuple):
    """What a test found, and how probable as much or more is where there is no difference."""

    statistic: float
    p: float


class Interval(NamedTuple):
    """A figure, and where it lies with a probability of 95 %."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """Two samples, compared."""

    shift: Interval
    """How much larger the second median is."""
    auc: float
    """How often one of the second is larger than one of the first: 0.5 says nothing of which it is."""
    ranks: Test
    """Mann and Whitney's."""
    shapes: Test
    """Kolmogorov and Smirnov's."""

    @property
    def p(self) -> float:
        """The smaller one, doubled: two chances to find something."""
        return min(1.0, 2 * min(self.ranks.p, self.shapes.p))


def compare(first: Sample, second: Sample, chance: random.Random) -> Comparison:
    """Compare two samples."""
    ranks = mann_whitney(first, second)
    auc = ranks.statistic / (len(first) * len(second))
    shapes = kolmogorov_smirnov(first, second)
    return Comparison(median_shift(first, second, chance), auc, ranks, shapes)


def mann_whitney(first: Sample, second: Sample) -> Test:
    """Return how many pairs have the larger one in `second`, ties by halves; p by the normal distribution."""
    n, m = len(first), len(second)
    labelled = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    before, larger, ties = 0, 0.0, 0
    for _, tied in groupby(labelled, key=lambda pair: pair[0]):
        labels = [label for _, label in tied]
        ones, zeros = sum(labels), len(labels) - sum(labels)
        larger += ones * (before + zeros / 2)
        before += zeros
        ties += len(labels) ** 3 - len(labels)
    total = n + m
    variance = n * m / 12 * (total + 1 - ties / (total * (total - 1)))
    z = (larger - n * m / 2) / math.sqrt(variance) if variance else 0.0
    return Test(larger, math.erfc(abs(z) / math.sqrt(2)))


def kolmogorov_smirnov(first: Sample, second: Sample) -> Test:
    """Return how far apart the two distribution functions are at most; p by Kolmogorov's distribution."""
    n, m = len(first), len(second)
    labelled = sorted([(value, 1 / n) for value in first] + [(value, -1 / m) for value in second])
    apart = farthest = 0.0
    for _, tied in groupby(labelled, key=lambda pair: pair[0]):
        apart += sum(step for _, step in tied)
        farthest = max(farthest, abs(apart))
    size = math.sqrt(n * m / (n + m))
    return Test(farthest, _kolmogorov((size + 0.12 + 0.11 / size) * farthest))


def median_shift(first: Sample, second: Sample, chance: random.Random) -> Interval:
    """Return how much larger the second median is, with a bootstrap's interval.

    A resampled median is the sample's quantile at the median of as many uniform numbers, which has a
    beta distribution: so nothing needs to be resampled to draw one.
    """
    one, other = sorted(first), sorted(second)
    drawn = sorted(_resampled(other, chance) - _resampled(one, chance) for _ in range(_RESAMPLES))
    shift = statistics.median(other) - statistics.median(one)
    return Interval(shift, drawn[_RESAMPLES // 40], drawn[-_RESAMPLES // 40])


def _resampled(ordered: Sample, chance: random.Random) -> float:
    half = (len(ordered) + 1) / 2
    return ordered[min(int(len(ordered) * chance.betavariate(half, half)), len(ordered) - 1)]


def _kolmogorov(at: float) -> float:
    """Return how probable a distance is that is at least `at`."""
    if at < 0.2:
        return 1.0
    terms = ((1 if k % 2 else -1) * math.exp(-2 * k * k * at * at) for k in range(1, _TERMS))
    return max(0.0, min(1.0, 2 * sum(terms)))
