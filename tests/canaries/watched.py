"""The service as a real process that is watched: on a disk of its own, every system call seen."""

import asyncio
import sys
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from service.identity.keys import new_key
from tests.canaries.sinks import Changed, Files, Kept, Sink
from tests.canaries.trace import SharedTrace, Trace, strace
from tests.replicas.ports import free_ports
from tests.replicas.process import Process, ended
from tests.replicas.replica import PORTS, Replica, sealing_keys

_OPEN_METRICS = "application/openmetrics-text; version=1.0.0"
_DISKS = ("working", "temporary", "home", "cache")
_TRACED = "calls"
_END = 10.0
"""Seconds for strace to write down the last of a process that has ended."""
_DUMPING = ("sh", "-c", 'ulimit -S -c "$(ulimit -H -c)"; exec "$@"', "sh")
"""Lets a process that crashes leave a dump of its memory, unless it does not want to."""
TENANTS = ("alice", "bob")


class Watched(Replica):
    """One process of the service, and everything that it could leave something in."""

    def __init__(
        self,
        folder: Path,
        ports: Sequence[int],
        settings: Mapping[str, str],
        told: Collection[int] = (),
    ) -> None:
        self.folder = folder
        self.disks = [folder / name for name in _DISKS]
        for disk in self.disks:
            disk.mkdir()
        self.keys = _keys(folder / "keys")
        super().__init__("turnwire", folder, iter(ports), {**_settings(folder), **settings})
        self.process = Process(self._command(), folder / "turnwire.log", self._surroundings())
        self.told = Kept("operations and health ports, all pages", b"turnwire_turns_total")
        self.trace = Trace(folder / _TRACED, ports, told) if strace(folder / _TRACED) else None
        self._shared = [Changed("shared memory (/dev/shm)", Path("/dev/shm"))]
        self.health_target = f"127.0.0.1:{ports[2]}"
        self.model = ""

    async def scrape(self, *more: str) -> None:
        """Keep what the operations port says, at these paths too."""
        async with httpx.AsyncClient(base_url=self._operations_url, trust_env=False) as client:
            for path in ("/metrics", "/healthz", "/readyz", *more):
                for accept in ("text/plain", _OPEN_METRICS):
                    answer = await client.get(path, headers={"Accept": accept})
                    self.told.keep(answer.content, repr(answer.headers))

    async def ended(self) -> bool:
        """Tell whether it has ended."""
        return not self.process.runs

    async def traced(self) -> None:
        """Wait until strace has written down all that a process which ended has done."""
        if self.trace:
            async with asyncio.timeout(_END):
                while not self.trace.ended():
                    await asyncio.sleep(0.02)

    def sinks(self) -> Iterator[Sink]:
        """Yield everything to be searched, apart from its store."""
        yield Files(
            "log: standard output and error, at level debug", [self.process.log], b"serving"
        )
        yield Files("journal", [self.folder / "journal"], b"completed")
        yield self.told
        yield Files("working directory, TMPDIR, HOME, caches", self.disks)
        yield from self._shared
        if self.trace:
            yield self.trace
            yield SharedTrace(self.trace)

    def _command(self) -> Sequence[str]:
        working = str(self.disks[0])
        service = [sys.executable, "-m", "service", "serve"]
        return [*_DUMPING, "env", "-C", working, *strace(self.folder / _TRACED), *service]

    def _surroundings(self) -> dict[str, str]:
        _, temporary, home, cache = map(str, self.disks)
        return {
            **self._environment(),
            "TMPDIR": temporary,
            "HOME": home,
            "XDG_CACHE_HOME": cache,
            "TURNWIRE_CACHE_DIR": cache,
            "PYTHONDONTWRITEBYTECODE": "1",
            "UV_USE_IO_URING": "0",  # what it writes would not be seen
        }


@asynccontextmanager
async def watched(
    folder: Path, settings: Mapping[str, str], told: Collection[int] = ()
) -> AsyncIterator[Watched]:
    """Run the service for as long as the context lasts, or until it is stopped.

    `told` are the ports of servers that it asks in its clients' words.
    """
    service = Watched(folder, list(free_ports(PORTS)), settings, told)
    async with ended(service.process):
        await service.start()
        yield service


def _settings(folder: Path) -> dict[str, str]:
    return {
        "log_level": "debug",
        "log_format": "json",
        "journal": str(folder / "journal"),
        "api_keys_file": str(folder / "keys"),
        "sealing_keys_file": str(sealing_keys(folder)),
        "max_message_bytes": str(64 * 1024),
        "drain_seconds": "0.5",
        "grace_seconds": "0.5",
        "allowed_origins": "https://page.example",
    }


def _keys(path: Path) -> dict[str, str]:
    """Write a file of keys; return each tenant's key."""
    made = {tenant: new_key(tenant) for tenant in TENANTS}
    path.write_text("".join(f"{line}\n" for _, line in made.values()))
    return {tenant: key for tenant, (key, _) in made.items()}
