"""One client: what it sends goes in, what happens is pushed into its sink, and its turns are its tasks.

Transports see a duplex `Connection`: they send client events in, and batches of server events are
pushed into their `Sink`, synchronously. A queue and a task per connection would cost more than the
events themselves.
"""

import asyncio
import functools
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service import ids
from service.cache import Bounds, NodeCache
from service.conversation import Node
from service.errors import Ending, ModelError, Overloaded, RateLimited, Refusal, SessionError
from service.identity import Identity
from service.limits import MIB
from service.memory import Memory, Pressure
from service.metrics import Metrics, TransportMetrics
from service.session import (
    Begin,
    Effect,
    End,
    Forget,
    Interrupt,
    Session,
    SessionLimits,
    Steer,
    Step,
    Tell,
    addressed,
    farewell,
)
from service.steering import required_input
from service.tenants import Tenants
from service.turns.grace import Grace
from service.turns.outcome import Outcome
from service.turns.run import Run
from service.turns.runner import Runner
from turnwire.delta import Event
from turnwire.v1 import events_pb2

_JITTER = 0.05
"""Connections that opened together do not all reconnect together."""
_OLD = "This connection has reached its age limit. Reconnect and continue."
_ASKS = {"create", "steer"}
"""What leads to a turn: steered input is answered by one of its own."""
GOING_AWAY = "The server is going away. Reconnect and continue."


class Sink(Protocol):
    """A transport's way out, as the engine sees it."""

    def deliver(self, events: Sequence[Event]) -> None:
        """Send events. Never waits, never raises; what happens in one loop tick may be gathered."""

    @property
    def congested(self) -> bool:
        """Whether so much is unsent that the engine should wait for `drained`."""

    async def drained(self) -> None:
        """Return when no longer congested, or when the connection is gone."""

    def end(self, error: SessionError) -> None:
        """Send what is unsent, then end the connection in the transport's words."""


class Host(Protocol):
    """The engine, as its connections see it."""

    runner: Runner
    metrics: Metrics
    tenants: Tenants
    memory: Memory

    def may_detach(self, tenant: str, more: int) -> bool:
        """Tell whether so many more of a tenant's turns may go on without their client."""

    def show(self, runs: Collection[Run]) -> None:
        """Let other replicas see turns that go on without their client."""

    def left(self, connection: "Connection") -> None:
        """A connection has ended; turns of it that go on, or are being ended, may be left."""

    def settled(self, connection: "Connection") -> None:
        """Forget a connection that has ended: nothing of it is left."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionLimits:
    """What one connection may have, in seconds and bytes."""

    session: SessionLimits = field(default_factory=SessionLimits)
    age: float = 3600.0
    """The longest life; then what runs may finish, and nothing new begins."""
    retirement: float = 300.0
    """This long before that end it goes as soon as no turn runs, so that no turn meets the end."""
    cache_bytes: int = 32 * MIB
    grace: float = 30.0
    """For which a turn that is to be stored goes on without its client."""


class Connection:
    """One client. `Sink` is told what happens; turns are told to the session, which decides."""

    __slots__ = (
        "_cache",
        "_closed",
        "_detached",
        "_host",
        "_idle",
        "_limits",
        "_opened",
        "_retiring",
        "_runs",
        "_session",
        "_sink",
        "_tasks",
        "_timer",
        "_turns",
        "account",
        "caller",
        "interruption",
        "metrics",
        "tenant",
    )

    def __init__(
        self,
        caller: Identity,
        sink: Sink,
        host: Host,
        metrics: TransportMetrics,
        limits: ConnectionLimits,
    ) -> None:
        self.caller = caller
        self.tenant = caller.tenant
        self.account = host.tenants.of(caller.tenant)
        self.metrics = metrics
        self.interruption: ModelError | None = None
        self._host = host
        self._sink = sink
        self._limits = limits
        self._session = Session(limits.session, ids.draw)
        self._cache: NodeCache | None = None
        self._tasks: dict[str | None, asyncio.Task[None]] = {}
        self._runs: dict[str | None, Run] = {}
        self._idle: asyncio.Event | None = None
        self._opened = time.monotonic()
        self._closed: float | None = None
        self._detached: list[Run] = []
        self._turns = 0
        self._retiring = False
        until_retirement = max(limits.age - limits.retirement, 0)
        jitter = 1 - random.random() * _JITTER  # noqa: S311  # no secret
        self._timer = asyncio.get_running_loop().call_later(until_retirement * jitter, self._retire)
        metrics.connections_open.inc()

    def receive(self, event: events_pb2.ClientEvent) -> None:
        """Take a client's event. Whatever it leads to is pushed into the sink, now or later."""
        if self._closed is None and self._afford(event):
            self._perform(self._session.receive(event))

    def refuse(self, refusal: Refusal, stream_id: str | None = None) -> None:
        """Tell the client that what it sent could not be read."""
        self._tell([addressed(refusal.event(), stream_id)])

    def leave(self, ending: Ending, message: str) -> None:
        """End the connection at its next turn boundary."""
        if self._closed is None:
            self._perform(self._session.leave(ending, message))

    async def cut(self, error: ModelError, ending: SessionError) -> None:
        """End the connection now; turns that run fail of this error, and their client is told."""
        self.interruption = error
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._closed is None:
            self._tell([farewell(ending).event()])
            self._sink.end(ending)

    async def finished(self) -> None:
        """Return when no turn runs or waits."""
        if not self._session.idle and self._closed is None:
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()

    def close(self, ending: Ending) -> None:
        """The connection is gone, for this reason: stop its turns. Closing twice is closing once."""
        if self._closed is not None:
            return
        self._closed = time.monotonic()
        self._timer.cancel()
        self._let_go()
        if self._cache:
            self._cache.close()
        self._cache = None
        self._wake()
        self.metrics.connections_open.dec()
        self.metrics.connection_turns.observe(self._turns)
        self.metrics.lived(ending.value, self._closed - self._opened)
        self._host.left(self)
        self._settle()

    @property
    def credential(self) -> str:
        """What the client's credential is called."""
        return self.caller.credential

    @property
    def background(self) -> bool:
        """Whether it was made for a response in the background: there is no client."""
        return self._limits.session.background

    @property
    def detached(self) -> int:
        """How many of its turns went on without their client when it was gone."""
        return len(self._detached)

    def recall(self, response_id: str) -> Node | None:
        """Return a node that the connection itself holds."""
        return self._cache.get((self.tenant, response_id)) if self._cache else None

    def keep(self, node: Node) -> None:
        """Hold a node for the connection's next turns, if there will be any."""
        if self._closed is not None:
            return
        if self._cache is None:
            bounds = Bounds(budget=self._limits.cache_bytes)
            self._cache = self._host.memory.cache(NodeCache, bounds, self._count_eviction)
        self._cache.put(node)

    def forget(self, response_id: str) -> None:
        """Let go of a node, if it is held."""
        if self._cache:
            self._cache.discard((self.tenant, response_id))

    def began(self, stream_id: str | None, run: Run) -> None:
        """A turn's response exists: it can be steered and interrupted."""
        self._runs[stream_id] = run
        self._session.began(stream_id, run.response.id)

    def settling(self, stream_id: str | None) -> None:
        """A turn's model has finished: nothing that comes now changes its response."""
        self._session.settling(stream_id)

    def deliver(self, events: Sequence[Event]) -> None:
        """Send events to the client."""
        if self._closed is None:
            self._sink.deliver(events)

    @property
    def behind(self) -> bool:
        """Whether the client has so much left to read that nothing more should be produced."""
        return self._closed is None and self._sink.congested

    async def ready(self) -> None:
        """Return when the client is no longer behind, or gone."""
        if self.behind:
            await self._sink.drained()

    def _afford(self, event: events_pb2.ClientEvent) -> bool:
        """Count what a client sends to be answered; tell whether there is room, and its tenant may."""
        if event.WhichOneof("kind") not in _ASKS:
            return True
        try:
            self._check_memory()
            self.account.take(event.ByteSize())
        except (Overloaded, RateLimited) as refusal:
            self.refuse(refusal, event.stream_id if event.HasField("stream_id") else None)
            return False
        return True

    def _check_memory(self) -> None:
        if self._host.memory.pressure >= Pressure.HARD:
            raise Overloaded(
                "server_is_overloaded", "Memory is short. Try again later, or elsewhere."
            )

    def _perform(self, step: Step) -> None:
        """Do what the rules decided; a client that is gone, or is cut in the middle, gets no more."""
        if step.events and self._closed is None:
            self._tell(step.events)
        for effect in step.effects:
            if self._closed is None:
                self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Begin():
                self._begin(effect)
            case Tell():
                self._tell_of_turn(effect)
            case Steer(stream_id):
                self._runs[stream_id].steer()
            case Interrupt(stream_id):
                self._runs[stream_id].stop("interrupted")
            case Forget(response_id):
                self.forget(response_id)
            case End(error):
                self._sink.end(error)

    def _tell(self, events: Sequence[events_pb2.ServerEvent]) -> None:
        """Deliver what the rules say, and count what they refuse."""
        for event in events:
            if event.HasField("error"):
                self.metrics.refused(event.error.status)
        self.deliver(events)

    def _tell_of_turn(self, tell: Tell) -> None:
        """Deliver an event as the lane's response counts them; a turn that never began counts nothing."""
        if run := self._runs.get(tell.stream_id):
            run.tell(tell.event)
        else:
            self._tell([addressed(tell.event, tell.stream_id)])

    def _begin(self, begin: Begin) -> None:
        self._turns += 1
        task = asyncio.get_running_loop().create_task(self._run(begin))
        self._tasks[begin.stream_id] = task
        task.add_done_callback(functools.partial(self._drop, begin.stream_id))

    def _drop(self, stream_id: str | None, task: asyncio.Task[None]) -> None:
        """Let go of a task that was cancelled before it began: it cannot do so itself."""
        if self._tasks.get(stream_id) is task:
            del self._tasks[stream_id]
            self._settle()

    def _let_go(self) -> None:
        """Stop the turns, but for those that can be picked up again."""
        for stream_id, task in self._tasks.items():
            run = self._runs.get(stream_id)
            if run and self._goes_on(run):
                self._detached.append(run)
            else:
                task.cancel()
        if self._detached:
            self._host.show(self._detached)
            Grace(self._detached, self._limits.grace, self._host.metrics)

    def _goes_on(self, run: Run) -> bool:
        if not run.plan.request.store or run.over_and_kept or not self._limits.grace:
            return False
        return self._host.may_detach(self.tenant, len(self._detached) + 1)

    async def _run(self, begin: Begin) -> None:
        try:
            await self._run_to_end(begin)
        finally:
            self._settle()

    def _settle(self) -> None:
        """Have the host forget a connection that is gone with all its turns."""
        if self._closed is not None and not self._tasks:
            self._host.settled(self)

    async def _run_to_end(self, begin: Begin) -> None:
        began = time.monotonic()
        self.metrics.turns_inflight.inc()
        word = "cancelled"
        try:
            outcome = await self._host.runner.run(begin, self)
            word = outcome.word
        finally:
            del self._tasks[begin.stream_id]  # before the lane's next turn takes its place
            self._count_turn(word, began)
        self._perform(self._decided(begin.stream_id, outcome))
        self._runs.pop(begin.stream_id, None)  # what follows in the lane has not begun yet
        if self._session.idle:
            self._rest()

    def _decided(self, stream_id: str | None, outcome: Outcome) -> Step:
        """Ask the rules what follows from how a turn ended."""
        session = self._session
        if outcome.refusal:
            return session.refused(stream_id, outcome.refusal)
        if outcome.word == "cancelled":
            return session.cancelled(stream_id)
        if outcome.node is None:
            return session.failed(stream_id)
        owed = required_input(outcome.output)
        return session.finished(stream_id, outcome.node.id, owed)

    def _rest(self) -> None:
        """No turn runs or waits any more."""
        self._wake()
        if self._retiring:
            self.leave(Ending.AGE, _OLD)

    def _retire(self) -> None:
        """The connection is old: let it go when it rests, and in the end whether it does or not."""
        self._retiring = True
        loop = asyncio.get_running_loop()
        left = self._opened + self._limits.age - time.monotonic()
        self._timer = loop.call_later(left, self.leave, Ending.AGE, _OLD)
        if self._session.idle:
            self.leave(Ending.AGE, _OLD)

    def _wake(self) -> None:
        if self._idle:
            self._idle.set()

    def _count_turn(self, outcome: str, began: float) -> None:
        self.metrics.turns_inflight.dec()
        self.metrics.turn(outcome)
        self.metrics.turn_seconds.observe(time.monotonic() - began)
        if outcome == "cancelled" and self._closed is not None and not self._detached:
            self.metrics.abort_seconds.observe(time.monotonic() - self._closed)

    def _count_eviction(self, reason: str) -> None:
        self._host.metrics.cache_evictions.labels("connection", reason).inc()
