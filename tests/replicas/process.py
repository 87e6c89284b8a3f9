"""One process: started, watched, and ended in all the ways that processes end."""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

START = 30.0
"""Seconds for a process to be ready; the machine may be busy."""
STOP = 30.0
"""Seconds for a process to end that was asked to."""
_POLL = 0.02
_KIB = 1024


class Held(NamedTuple):
    """What a process holds of the machine."""

    resident: int
    """Bytes."""
    threads: int
    descriptors: int


class Process:
    """A program that may be started again and again; what it says is kept in a file."""

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self._command = command
        self._environment = environment
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._popen, "the process does not run"
        return self._popen.pid

    @property
    def runs(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def start(self) -> None:
        """Start it; it may take a while until it can be used."""
        assert not self.runs
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=subprocess.STDOUT
            )

    async def kill(self) -> None:
        """End it without a word."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        return await self._end(signal.SIGTERM)

    def freeze(self) -> None:
        """Let it do nothing: to others it is as if the network lost all that is sent to it."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def held(self) -> Held:
        """Tell what it holds now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return Held(
            resident=_number("VmRSS", status) * _KIB,
            threads=_number("Threads", status),
            descriptors=sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir()),
        )

    def tail(self) -> str:
        """Return the last that it said."""
        return self.log.read_text(errors="replace")[-2000:]

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until something holds of a process that has been started."""
        async with asyncio.timeout(START):
            while not await holds():
                assert self.runs, f"it ended: {self.tail()}"
                await asyncio.sleep(_POLL)

    async def _end(self, number: signal.Signals) -> int:
        popen, self._popen = self._popen, None
        if popen is None:
            return 0
        popen.send_signal(number)
        popen.send_signal(signal.SIGCONT)  # the frozen hear nothing else
        try:
            return await asyncio.to_thread(popen.wait, STOP)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()
            raise


@asynccontextmanager
async def ended(*processes: Process) -> AsyncIterator[None]:
    """See to it that processes are gone in the end, whatever becomes of them meanwhile."""
    try:
        yield
    finally:
        await asyncio.gather(*(process.kill() for process in processes))


async def until(holds: Callable[[], Awaitable[bool]], seconds: float = START) -> None:
    """Wait until something holds of something that does not tell."""
    async with asyncio.timeout(seconds):
        while not await holds():
            await asyncio.sleep(_POLL)


def _number(name: str, status: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", status, re.MULTILINE)
    assert found
    return int(found[1])
