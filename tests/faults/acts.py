"""Programs: what a client does, one act after the other, as small numbers that mean something anywhere."""

import random
from collections.abc import Sequence
from typing import NamedTuple

TURNS = {
    "chain": 30,
    "fork": 40,
    "new": 6,
    "answer": 8,
    "orphan": 2,
    "refer": 3,
    "misrefer": 1,
    "converse": 4,
    "garbage": 2,
    "foreign": 1,
    "faulty": 3,
}
"""Creates, by what they continue or what is wrong with them, and how often each comes."""
OTHERS = {
    "steer": 8,
    "interrupt": 5,
    "cancel": 4,
    "delete": 3,
    "follow": 4,
    "malformed": 2,
    "stray": 1,
    "pause": 3,
    "read": 5,
    "reconnect": 1,
    "rest": 2,
}
"""What else a client does."""
VERBS = tuple(TURNS | OTHERS)
SCRIPTS = (
    "#recite",
    "#recite",
    "#recite",
    "#sim text 3",
    "#sim reasoning 2 ; text 2",
    "#sim text 1 ; stall 0.002 ; text 2 ; stall 0 ; text 1",
    "#sim slow 0.001 ; summary 1 ; reasoning 1 ; text 3",
    "#sim call f {} ; call g {}",
    "#sim text 1 ; stall 0 ; custom h say",
    "#sim refuse never",
    "#sim text 2 ; length",
    "#sim fail server_error",
    "#sim text 1 ; stall 0.001 ; fail rate_limit_exceeded after 2 words",
    "#sim stall 0.005 ; text 1",
    "warm",
)


class Act(NamedTuple):
    """One thing to do."""

    verb: str
    lane: int
    """Which lane; 0 is the default one."""
    pick: int
    """Which of all there are: responses, faults, lanes."""
    store: bool | None
    script: str
    ticks: int
    """Ticks of the loop until the next act."""


def at_random(seed: int, lanes: int, turns: int) -> Sequence[Act]:
    """Return a program of so many creates on each lane on average, and what goes with them."""
    rng = random.Random(seed)
    weights = [*TURNS.values(), *OTHERS.values()]
    share = sum(TURNS.values()) / sum(weights)
    return [
        Act(
            verb=rng.choices(VERBS, weights)[0],
            lane=rng.randrange(lanes),
            pick=rng.randrange(1 << 16),
            store=rng.choice((True, False, None)),
            script=rng.choice(SCRIPTS),
            ticks=rng.choice((0, 0, 1, 2, 5)),
        )
        for _ in range(int(lanes * turns / share))
    ]
