"""Ports for processes that are restarted: free, and none that a client is given by the kernel meanwhile."""

import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

_FIRST, _LAST = 20_000, 30_000  # below those that outgoing connections are given
_TRIES = 200


def free_ports(count: int) -> Iterator[int]:
    """Return so many ports of this machine that nobody listens on, each another one."""
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.sample(range(_FIRST, _LAST), _TRIES):
            if len(ports) < count and _take(port, held):
                ports.append(port)
    assert len(ports) == count, "hardly a port is free"
    return iter(ports)


def _take(port: int, held: ExitStack) -> bool:
    with suppress(OSError), socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        held.enter_context(taken.dup())
        return True
    return False
