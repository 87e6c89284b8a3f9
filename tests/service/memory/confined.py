"""Places for a process with little memory, as far as this machine lets tests make some."""

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest

from service.memory.process import Group, groups

_DEADLINE = 10.0
Enter: TypeAlias = Callable[[], None]
"""Called in a process that has just been forked: confines it."""
Place: TypeAlias = Callable[[int], AbstractAsyncContextManager[Enter]]
"""Takes the bytes that a process may have."""


@asynccontextmanager
async def control_group(limit: int) -> AsyncIterator[Enter]:
    """Kill what takes more than `limit`: a group within the one that the tests are in."""
    path = _made(limit)

    def enter() -> None:
        (path / "cgroup.procs").write_text(str(os.getpid()))

    try:
        yield enter
    finally:
        async with asyncio.timeout(_DEADLINE):
            while not _removed(path):
                await asyncio.sleep(0.05)


@asynccontextmanager
async def address_space(limit: int) -> AsyncIterator[Enter]:
    """Refuse what would take more than `limit`, libraries and stacks included."""
    yield lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _made(limit: int) -> Path:
    own = _own_group()
    path = Path(own.path) / f"turnwire-test-{os.getpid()}"
    try:
        path.mkdir()
    except OSError:
        pytest.skip("control groups cannot be made here")
    try:
        (path / own.files.limits[0]).write_text(str(limit))
    except OSError:
        path.rmdir()
        pytest.skip("control groups cannot limit memory here")
    return path


def _own_group() -> Group:
    try:
        return groups(Path("/proc/self"))[0]
    except (OSError, ValueError, IndexError):
        pytest.skip("there are no control groups")


def _removed(path: Path) -> bool:
    """A group can be removed once the system has cleared away what was in it."""
    try:
        path.rmdir()
    except OSError:
        return False
    return True
