"""Which of a model's servers a turn goes to. Pure: loads and memories are arguments.

A conversation goes where its keys and values are cached: to the server that answered it last. Where
nothing is remembered, rendezvous hashing names the server, so that replicas and restarts agree on it.

That favourite keeps the conversation as long as it is not overloaded. Its share of the turns in flight,
this one included, is in proportion to its weight; while this turn would leave it with no more than
`STRETCH` times its share, rounded up, it takes the turn. Otherwise the least loaded takes it: computing
a prompt anew is then cheaper than waiting. So no server that is chosen ever exceeds that bound.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

STRETCH = 1.5

Why: TypeAlias = Literal["hit", "new", "busy", "away"]
"""Whether a turn goes where its conversation was, and if not, why: nothing is remembered, the server is
overloaded, or it cannot be asked."""


class Candidate(NamedTuple):
    """A server that may be asked."""

    name: str
    weight: float
    load: int
    """Turns in flight."""
    on_trial: bool = False
    """Whether it was away and has answered nobody since."""


class Choice(NamedTuple):
    """The server that is chosen."""

    name: str
    why: Why


def admitted(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    """Return those that may be asked: one on trial takes a turn at a time, unless all are."""
    proven = [candidate for candidate in candidates if not candidate.on_trial]
    if not proven:
        return candidates
    return [*proven, *(one for one in candidates if one.on_trial and not one.load)]


def choose(candidates: Sequence[Candidate], key: bytes, last: str | None) -> Choice:
    """Choose one of at least one. `last` answered this conversation before, as far as is known."""
    home = next((candidate for candidate in candidates if candidate.name == last), None)
    favourite = home or preferred(candidates, key)
    if favourite.load + 1 > bound(favourite, candidates):
        return Choice(least_loaded(candidates, key).name, "busy")
    if home:
        return Choice(home.name, "hit")
    return Choice(favourite.name, "away" if last else "new")


def preferred(candidates: Sequence[Candidate], key: bytes) -> Candidate:
    """Return the server that a key belongs to: of two, it stays the same whoever else there is."""
    return max(candidates, key=lambda candidate: _score(candidate, key))


def least_loaded(candidates: Sequence[Candidate], key: bytes) -> Candidate:
    """Return the server with the fewest turns for its weight; of several, the one the key prefers."""
    return min(candidates, key=lambda one: (one.load / one.weight, -_score(one, key)))


def bound(candidate: Candidate, candidates: Sequence[Candidate]) -> int:
    """Return how many turns a server may have, once one more is in flight."""
    turns = 1 + sum(one.load for one in candidates)
    share = turns * candidate.weight / sum(one.weight for one in candidates)
    return math.ceil(STRETCH * share)


def _score(candidate: Candidate, key: bytes) -> float:
    """Return a number that favours each server as often as its weight says."""
    digest = hashlib.blake2b(key, digest_size=8, key=candidate.name.encode()[:64]).digest()
    unit = (int.from_bytes(digest) + 1) / (2**64 + 1)  # above 0, and below 1 but for rounding
    return -candidate.weight / min(math.log(unit), -1e-18)
