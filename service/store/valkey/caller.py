"""Gets calls answered by whoever has the key now: again if that may help, and as durably as asked.

`WAIT` tells how many replicas have what *its own connection* wrote last. So a write and its `WAIT` are one
unit: whatever goes wrong in between, both are done again, with whoever has the key by then. All writes can
be repeated, and every repetition writes something, so that a `WAIT` after it covers the first one too.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import structlog
from valkey.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from service.store import StoreUnavailable
from service.store.valkey.advice import advice
from service.store.valkey.functions import LOAD, MISSING, Call, Command
from service.store.valkey.node import Away, Node, Unwelcome
from service.store.valkey.servers import Servers
from service.store.vault import StoreExhausted

log = structlog.get_logger(__name__)

_READS = 2
_FIRST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5
_FIRST_CALL = Call("rs_read", "tw:1:{start}", ())
"""Finds nothing, and shows that calls can be made."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Demands:
    """What is asked of the servers. Times are in seconds."""

    replicas: int = 0
    """That must have a write before it counts."""
    timeout: float = 1.0
    """For one answer, and for the replicas."""
    deadline: float = 10.0
    """For a write, failovers included."""


class NotReplicated(StoreUnavailable):
    """It is written, but too few replicas have it."""


class Short(Exception):
    """Too few replicas have it yet."""


_LOST = (Away, ClusterDownError, MovedError, ReadOnlyError)
"""What shows that the servers may have changed places."""
_FAILURES = (Away, ResponseError, Short)
"""What may be better next time."""
Attempt: TypeAlias = Callable[[Call], Awaitable[Any]]


class Caller:
    """Makes calls."""

    def __init__(self, servers: Servers, demands: Demands) -> None:
        self._servers = servers
        self._demands = demands
        self._probing: asyncio.Task[None] | None = None

    @property
    def well(self) -> bool:
        """Whether a put is likely to succeed, wherever it is."""
        return any(node.well for node in self._servers.primaries)

    async def start(self) -> None:
        """Find the servers, and give them the functions. Raises `StoreUnavailable`, which has a note."""
        try:
            await self._insist(_FIRST_CALL, self._prepared, self.deadline())
        except StoreUnavailable as unavailable:
            unavailable.add_note(advice(unavailable.__cause__))
            raise

    async def stop(self) -> None:
        """Close all connections."""
        if self._probing:
            self._probing.cancel()
            await asyncio.wait([self._probing])
        await self._servers.stop()

    def deadline(self) -> float:
        """Return until when what is asked for now has to be done, in the loop's time."""
        return asyncio.get_running_loop().time() + self._demands.deadline

    async def read(self, call: Call) -> Any:
        """Return the answer; once more if that may help. Raises `StoreUnavailable`."""
        for _ in range(_READS):
            try:
                return await self._once(call)
            except _FAILURES as failure:
                await self._reconsider(failure)
        raise StoreUnavailable

    async def change(self, call: Call, deadline: float) -> Any:
        """Return the answer to a call that changes what may be lost. Raises `StoreUnavailable`."""
        return await self._insist(call, self._once, deadline)

    async def write(self, call: Call, deadline: float) -> Any:
        """Return the answer once the change is durable. Raises `StoreUnavailable`."""
        return await self._insist(call, self._durably, deadline)

    def check(self) -> None:
        """Raise `StoreUnavailable` if no server is well, and see whether that is still so."""
        if self.well:
            return
        if not self._probing or self._probing.done():
            self._probing = asyncio.get_running_loop().create_task(self._probe())
        raise StoreUnavailable

    async def _insist(self, call: Call, attempt: Attempt, deadline: float) -> Any:
        """Attempt it until it succeeds. The cause of `StoreUnavailable` is the last failure."""
        last: Exception = Away()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                for pause in _pauses():
                    try:
                        return await attempt(call)
                    except (OutOfMemoryError, Unwelcome, NoPermissionError) as failure:
                        raise _unavailable(failure) from failure
                    except _FAILURES as failure:
                        last = failure
                        await self._reconsider(failure)
                    await asyncio.sleep(pause)
        raise _unavailable(last) from last

    async def _prepared(self, call: Call) -> Any:
        await self._servers.refresh(self._demands.timeout)
        for node in self._servers.primaries:
            await self._load(node)
        return await self._once(call)

    async def _once(self, call: Call) -> Any:
        (answer,) = await self._attempt(call.key, [call.command])
        return answer

    async def _durably(self, call: Call) -> Any:
        """Write, have as many replicas confirm it as asked, and remember whether that went well."""
        node = self._servers.node_of(call.key)
        try:
            answer = await self._confirmed(call)
        except (ResponseError, Short):
            node.safety.failed(time.monotonic())
            raise
        node.safety.succeeded()
        return answer

    async def _confirmed(self, call: Call) -> Any:
        if not self._demands.replicas:
            return await self._once(call)
        answer, replicas = await self._attempt(call.key, [call.command, self._wait])
        if replicas < self._demands.replicas:
            raise Short
        return answer

    @property
    def _wait(self) -> Command:
        return ("WAIT", self._demands.replicas, int(1000 * self._demands.timeout))

    @property
    def _patience(self) -> float:
        """How long answers may take: that to `WAIT` is late on purpose."""
        return self._demands.timeout * (2 if self._demands.replicas else 1)

    async def _attempt(self, key: str, commands: Sequence[Command]) -> list[Any]:
        """Return the answers of whoever has the key. Raises `Away`, and the answer that is an error."""
        node = self._servers.node_of(key)
        try:
            return await self._answers(node, commands)
        except MovedError:  # which the library has for a kind of the next
            raise
        except AskError as ask:  # only this once, while the slot is on its way
            there = self._servers.node_at(ask.host or node.host.name, ask.port)
            return (await self._answers(there, [("ASKING",), *commands]))[1:]

    async def _answers(self, node: Node, commands: Sequence[Command]) -> list[Any]:
        answers = await node.ask(commands, self._patience)
        if any(map(_is_missing, answers)):
            await self._load(node)
            answers = await node.ask(commands, self._patience)
        for answer in answers:
            if isinstance(answer, ResponseError):
                raise answer
        return answers

    async def _load(self, node: Node) -> None:
        """Give a server the functions; it passes them on to its replicas."""
        (answer,) = await node.ask([LOAD], self._patience)
        if isinstance(answer, ResponseError):
            raise answer

    async def _reconsider(self, failure: Exception) -> None:
        """Find out who has what, if that may be why."""
        if isinstance(failure, _LOST):
            with suppress(Away):
                await self._servers.refresh(self._demands.timeout)
        if isinstance(failure, MovedError) and failure.host:
            self._servers.moved(failure.slot_id, self._servers.node_at(failure.host, failure.port))

    async def _probe(self) -> None:
        """Do on servers that failed what puts do there, without putting anything."""
        with suppress(Away):
            await self._servers.refresh(self._demands.timeout)
        for node in self._servers.primaries:
            if node.safety.allows(time.monotonic()):
                with suppress(Away):
                    await self._try_out(node)

    async def _try_out(self, node: Node) -> None:
        loaded, replicas = await node.ask([LOAD, self._wait], self._patience)
        if isinstance(loaded, ResponseError) or isinstance(replicas, ResponseError):
            node.safety.failed(time.monotonic())
        elif replicas >= self._demands.replicas:
            node.safety.succeeded()


def _is_missing(answer: object) -> bool:
    return isinstance(answer, ResponseError) and MISSING in str(answer)


def _pauses() -> Iterator[float]:
    """Say how long to wait before the next attempt: longer each time, and not all alike."""
    longest = _FIRST_PAUSE
    while True:
        yield longest * (0.5 + random.random() / 2)  # noqa: S311  # no secret
        longest = min(2 * longest, _LONGEST_PAUSE)


def _unavailable(failure: Exception) -> StoreUnavailable:
    if isinstance(failure, OutOfMemoryError):
        return StoreExhausted()
    return NotReplicated() if isinstance(failure, Short) else StoreUnavailable()
