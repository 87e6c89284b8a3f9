"""A small linear model of offensive language in English, evaluated without any library.

The weights, and who they are by, are in `weights/`; `tests/service/moderation/export.py` makes them of
the model they were trained as.
"""

import gzip
import hashlib
import json
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).with_name("weights") / "offensive.json.gz"
_PIECE = re.compile(r".{1,100}\w{0,64}", re.DOTALL)
"""About a sentence: in more text than that one insult weighs too little to be found. No word is cut in two,
lest its end be an insult."""
_WORD = re.compile(r"\b\w\w+\b")


@dataclass(frozen=True, slots=True)
class _Fold:
    """One of the linear models whose probabilities are averaged, each with a calibration of its own."""

    coefficients: Sequence[float]
    intercept: float
    slope: float
    offset: float

    def probability(self, vector: Sequence[tuple[int, float]]) -> float:
        distance = self.intercept + sum(x * self.coefficients[index] for index, x in vector)
        return 1 / (1 + math.exp(self.slope * distance + self.offset))


class OffensiveLanguage:
    """How likely people found a text offensive: insults, slurs, threats, obscenities."""

    def __init__(
        self, terms: Mapping[str, int], rarity: Sequence[float], folds: Sequence[_Fold]
    ) -> None:
        self._terms = terms
        """The words it knows, by their place. All others mean nothing to it."""
        self._rarity = rarity
        """Inverse document frequencies, by term."""
        self._folds = folds

    @classmethod
    def read(cls, weights: bytes) -> "OffensiveLanguage":
        """Read weights, compressed as they are kept."""
        known = json.loads(gzip.decompress(weights))
        documents = known["documents"]
        rarity = (1 + math.log((1 + documents) / (1 + count)) for count in known["in_documents"])
        terms = {term: index for index, term in enumerate(known["terms"])}
        folds = [_fold(fold, known["scale"]) for fold in known["folds"]]
        return cls(terms, array("d", rarity), folds)

    @property
    def words(self) -> Sequence[str]:
        """The words it knows, in order."""
        return list(self._terms)

    def score(self, piece: str) -> float:
        """Return a probability for a text that is read as one."""
        vector = self._vector(piece)
        return sum(fold.probability(vector) for fold in self._folds) / len(self._folds)

    def _vector(self, piece: str) -> Sequence[tuple[int, float]]:
        """Weigh the words it knows by how rare they are, to a length of one whatever the text's."""
        terms = self._terms
        counts = Counter(terms[word] for word in _WORD.findall(piece.lower()) if word in terms)
        weighed = [(index, count * self._rarity[index]) for index, count in counts.items()]
        norm = math.hypot(*(x for _, x in weighed))
        return [(index, x / norm) for index, x in weighed]


def version_of(weights: bytes) -> str:
    """Return what changes with the weights."""
    return hashlib.blake2b(weights, digest_size=8).hexdigest()


def pieces(text: str, at_once: int) -> Iterator[Sequence[str]]:
    """Cut a text into what is scored by itself, so many pieces at a time; short ones are whole."""
    found = (match.group() for match in _PIECE.finditer(text))
    while batch := list(islice(found, at_once)):
        yield batch


def _fold(known: Mapping[str, Any], scale: int) -> _Fold:
    """Return a fold. Its coefficients are kept as whole numbers, `scale` times as large."""
    coefficients = array("d", (number / scale for number in known["coefficients"]))
    return _Fold(coefficients, known["intercept"], known["slope"], known["offset"])
