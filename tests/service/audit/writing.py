"""A process that keeps a journal in a file, until it is killed or told to stop: `writing FILE [MOST_BYTES]`.

Says at its end how many entries there were.
"""

import asyncio
import resource
import signal
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from service import logs
from service.audit.queue import QueuedJournal, QueueLimits
from service.audit.sinks import JsonLines
from service.metrics import Metrics
from tests.service.audit.entries import entry

_QUICK = QueueLimits(batch=10, gather=0.001, backoff=0.01, longest_backoff=0.02)


async def write_on(path: Path, grace: float) -> int:
    """Add entries until SIGTERM; return how many."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    journal = QueuedJournal(JsonLines(path), Metrics(CollectorRegistry()), _QUICK)
    journal.start()
    added = 0
    while not stopped.is_set():
        for _ in range(20):
            journal.add(entry(added))
            added += 1
        await asyncio.sleep(0.001)
    await journal.stop(grace)
    return added


def main(path: str, most_bytes: str = "") -> None:
    """Write, to a file that may become so large."""
    logs.configure("info", "json")
    if most_bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(most_bytes), resource.RLIM_INFINITY))
    print(asyncio.run(write_on(Path(path), 0.5 if most_bytes else 30)))  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
