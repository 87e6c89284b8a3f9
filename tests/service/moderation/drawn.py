"""Texts that a model of words is tried with: drawn from its own vocabulary, the same ones every time."""

import random
from collections.abc import Iterator, Sequence

_COUNT = 300
_LONGEST = 60  # words
_UNKNOWN = ("the", "x", "zzyzx", "42", "_", "\n", "...", "Not", "ignore_previous", "日本", "😀")


def drawn(terms: Sequence[str]) -> Iterator[str]:
    """Yield texts: known and unknown words, some of them again, in all sorts of case."""
    dice = random.Random(20_261_123)
    for number in range(_COUNT):
        words = [_word(dice, terms) for _ in range(1 + number % _LONGEST)]
        yield dice.choice((" ", ", ", "-", "\t")).join(words + words[: number % 3])


def _word(dice: random.Random, terms: Sequence[str]) -> str:
    word = dice.choice(terms if dice.random() < 0.8 else _UNKNOWN)
    return dice.choice((str.lower, str.upper, str.title))(word)
