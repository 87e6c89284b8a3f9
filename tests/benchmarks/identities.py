"""Whether the time of a refusal tells anything about a key: `python -m tests.benchmarks.identities`.

Four ways in which a key can be wrong, and a right one, are tried in turn, many times. Each row says
how far its times are from those of a wrong secret for a known id: the greatest distance between the
two distributions (Kolmogorov and Smirnov), beside what chance alone exceeds once in a hundred times.
A right key is there for comparison: that it is right, its owner may know.
"""

import argparse
import contextlib
import math
import random
import secrets
import statistics
import tempfile
import time
from bisect import bisect_right
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from service.errors import Unauthenticated
from service.identity import Credentials
from service.identity.keys import KeyFile, new_key

_KEYS = 1000
_REFERENCE = "wrong secret"
_ONE_IN_A_HUNDRED = 1.628  # of the limiting distribution


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000, help="tries of each kind")
    samples: int = parser.parse_args().samples
    with tempfile.TemporaryDirectory() as folder:
        times = measure(*prepare(Path(folder) / "keys"), samples)
    Console().print(report(times, samples))


def prepare(path: Path) -> tuple[KeyFile, dict[str, str]]:
    """Return a file of many keys, and what to try."""
    made = [new_key(f"tenant{number}") for number in range(_KEYS)]
    path.write_text("\n".join(line for _, line in made))
    key = random.choice(made)[0]
    key_id, wrong = key.split("_")[1], secrets.token_hex(32)
    tried = {
        _REFERENCE: f"tw_{key_id}_{wrong}",
        "unknown id": f"tw_{secrets.token_hex(4)}_{wrong}",
        "wrong prefix": f"sk_{key_id}_{wrong}",
        "a secret nearly right": f"{key[:-1]}{'0' if key[-1] != '0' else '1'}",
        "the right key": key,
    }
    return KeyFile.read(path), tried


def measure(keys: KeyFile, tried: dict[str, str], samples: int) -> dict[str, list[int]]:
    """Return the times of each kind in nanoseconds. Kinds take turns: noise meets all of them."""
    times: dict[str, list[int]] = {kind: [] for kind in tried}
    kinds = list(tried)
    for _ in track(range(samples), transient=True):
        random.shuffle(kinds)
        for kind in kinds:
            times[kind].append(_once(keys, Credentials(f"Bearer {tried[kind]}")))
    return {kind: sorted(found) for kind, found in times.items()}


def report(times: dict[str, list[int]], samples: int) -> Table:
    """Return the table."""
    chance = _ONE_IN_A_HUNDRED * math.sqrt(2 / samples)
    columns = ("", "median ns", "p99 ns", "distance", f"chance: {chance:.4f}")
    table = Table(*columns, title=f"Times of {samples} refusals of each kind")
    for kind, found in times.items():
        distance = _distance(times[_REFERENCE], found)
        word = "alike" if distance <= chance else "differs"
        p99 = found[len(found) * 99 // 100]
        table.add_row(kind, f"{statistics.median(found):.0f}", f"{p99}", f"{distance:.4f}", word)
    return table


def _once(keys: KeyFile, credentials: Credentials) -> int:
    began = time.perf_counter_ns()
    with contextlib.suppress(Unauthenticated):
        keys.identify(credentials)
    return time.perf_counter_ns() - began


def _distance(one: list[int], other: list[int]) -> float:
    """Return the greatest distance of two distributions, each sorted."""
    size = len(one)
    return max(abs(bisect_right(one, at) - bisect_right(other, at)) / size for at in one + other)


if __name__ == "__main__":
    main()
