"""The journal that entries wait in until their sink has taken them: while the next turns run.

Entries are lost only when the sink fails for so long that there are too many of them, or the process is
killed: then it is those of the last tenth of a second.
"""

import asyncio
import contextlib
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import structlog

from service.audit import Entry
from service.audit.sinks import Sink
from service.metrics import Metrics

log = structlog.get_logger(__name__)

_STOPPING = 0.25
"""Seconds between attempts when there is not much time left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueLimits:
    """How many entries, and how many seconds."""

    waiting: int = 65_536
    """Entries that wait at most: some 40 MB."""
    batch: int = 1000
    """Entries that are written at once."""
    gather: float = 0.1
    """For entries to come together: each write costs as much as many entries."""
    backoff: float = 0.5
    """After a failed attempt, doubled each time."""
    longest_backoff: float = 30.0


@dataclass(slots=True)
class _Outage:
    """A time in which the sink takes nothing."""

    began: float
    backoff: float
    dropped: int = 0


class QueuedJournal:
    """Takes entries on the event loop, and has them written in a thread."""

    def __init__(self, sink: Sink, metrics: Metrics, limits: QueueLimits | None = None) -> None:
        self._sink = sink
        self._limits = limits or QueueLimits()
        self._most = self._limits.waiting
        self._written = metrics.journal_entries.labels("written")
        self._dropped = metrics.journal_entries.labels("dropped")
        self._waiting: deque[Entry] = deque()
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self._outage: _Outage | None = None
        self._attempt: Future[None] | None = None
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write. Entries may have come already."""
        self._writing = asyncio.get_running_loop().create_task(self._write_on())

    def add(self, entry: Entry) -> None:
        """Take an entry. Where too many wait, the oldest one goes."""
        self._waiting.append(entry)
        self._work.set()
        if len(self._waiting) > self._most:
            self._overflow()

    async def stop(self, grace: float) -> None:
        """Write all that waits, for so many seconds at most. What could not be written is told."""
        self._stopping.set()
        self._work.set()
        if self._writing:
            await asyncio.wait([self._writing], timeout=grace)
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        if self._attempt is None or self._attempt.done():
            self._sink.close()  # while a write hangs, what it has open must stay its own
        if self._waiting:
            log.error("journal_not_written", entries=len(self._waiting))
        self._most = 0
        self._shorten()

    async def _write_on(self) -> None:
        """Write whatever comes, until nothing more is to come."""
        while self._waiting or not self._stopping.is_set():
            await self._work.wait()
            await self._pause(self._limits.gather)
            self._work.clear()
            await self._write_all()

    async def _write_all(self) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(self._batch_size)]
            try:
                self._attempt = _in_thread(functools.partial(self._sink.write, batch))
                await asyncio.wrap_future(self._attempt)
            except OSError as error:
                self._give_back(batch)
                await self._fail(error)
            except asyncio.CancelledError:
                self._give_back(batch)
                raise
            except Exception:
                log.exception("journal_defect", entries=len(batch))
                self._dropped.inc(len(batch))
            else:
                self._succeed(batch)

    @property
    def _batch_size(self) -> int:
        return min(len(self._waiting), self._limits.batch)

    def _give_back(self, batch: Sequence[Entry]) -> None:
        self._waiting.extendleft(reversed(batch))
        self._shorten()

    def _overflow(self) -> None:
        """More entries come than are written: the sink is slow, or hangs."""
        if not self._stopping.is_set():
            self._begin_outage("entries come faster than they are written")
        self._shorten()

    def _shorten(self) -> None:
        """Let go of the oldest entries, of which there are too many."""
        dropped = max(len(self._waiting) - self._most, 0)
        for _ in range(dropped):
            self._waiting.popleft()
        self._dropped.inc(dropped)
        if self._outage:
            self._outage.dropped += dropped

    async def _fail(self, error: OSError) -> None:
        """Wait before the next attempt, longer each time."""
        outage = self._begin_outage(error.strerror or type(error).__name__)
        await self._pause(outage.backoff)
        if self._stopping.is_set():
            await asyncio.sleep(_STOPPING)
        outage.backoff = min(outage.backoff * 2, self._limits.longest_backoff)

    def _begin_outage(self, reason: str) -> _Outage:
        """Tell of an outage, unless there is one."""
        if self._outage is None:
            log.warning("journal_failing", reason=reason)
            self._outage = _Outage(time.monotonic(), self._limits.backoff)
        return self._outage

    def _succeed(self, batch: Sequence[Entry]) -> None:
        self._written.inc(len(batch))
        if outage := self._outage:
            self._outage = None
            seconds = round(time.monotonic() - outage.began, 3)
            log.info("journal_recovered", seconds=seconds, dropped=outage.dropped)

    async def _pause(self, seconds: float) -> None:
        """Wait, but for as long as there is time only."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _in_thread(work: Callable[[], None]) -> Future[None]:
    """Do something that may hang in a thread that does not keep the process from ending."""
    done: Future[None] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=run, name="journal", daemon=True).start()
    return done
