"""Runs whose client has gone: they go on for a while, so that they can be picked up again."""

import asyncio
from collections.abc import Sequence

from service.metrics import Metrics
from service.turns.run import Run

_LOOK = 0.5  # seconds


class Grace:
    """Ends runs that nobody has listened to for some seconds. Those who follow one listen to it."""

    def __init__(self, runs: Sequence[Run], seconds: float, metrics: Metrics) -> None:
        self._seconds = seconds
        self._now, self._ended = metrics.detached_turns, metrics.detached
        self._now.inc(len(runs))
        self._loop = asyncio.get_running_loop()
        self._listened_at = dict.fromkeys(runs, self._loop.time())
        self._look_later()

    def _look_later(self) -> None:
        pause = min(_LOOK, self._seconds)
        self._timer = self._loop.call_later(pause, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        for run in list(self._listened_at):
            if run.over_and_kept:
                self._forget(run, "finished")
            elif run.followers:
                self._listened_at[run] = now
            elif now - self._listened_at[run] >= self._seconds:
                run.stop("cancelled")
                self._forget(run, "given_up")
        if self._listened_at:
            self._look_later()

    def _forget(self, run: Run, outcome: str) -> None:
        del self._listened_at[run]
        self._now.dec()
        self._ended.labels(outcome).inc()
