"""The engine: connections, the turns they run, and the only tasks there are.

Transports see a duplex `Connection`: they send client events in, and the engine pushes batches of
server events into their `Sink`, synchronously. A queue and a task per connection would cost more
than the events themselves.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.cache import Bounds, NodeCache
from service.conversation import Node
from service.errors import Ending, ModelError, NotFound, Overloaded, Refusal, SessionError
from service.limits import TurnLimits
from service.metrics import Metrics, TransportMetrics
from service.router import Router
from service.runner import Runner
from service.session import Begin, End, Forget, Session, SessionLimits, Step, addressed
from service.store import Store
from turnwire.delta import Event
from turnwire.v1 import events_pb2, responses_pb2

_HOUSEKEEPING = 15.0
"""Seconds between two looks at what has become too old."""
_AGE_JITTER = 0.05
"""Connections that opened together do not all reconnect together."""
_OLD = "This connection has reached its age limit. Reconnect and continue."
_DRAINING = "The server is going away. Reconnect and continue."
_CUT = ModelError("server_error", "The server is going away and could not wait for the response.")


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


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLimits:
    """What the engine allows, in seconds and bytes."""

    session: SessionLimits = field(default_factory=SessionLimits)
    turn: TurnLimits = field(default_factory=TurnLimits)
    connections: int = 20_000
    connection_age: float = 3600.0
    connection_cache_bytes: int = 32 * 1024 * 1024


class Engine:
    """All conversations of this process."""

    def __init__(
        self, router: Router, store: Store, metrics: Metrics, limits: EngineLimits
    ) -> None:
        self.limits = limits
        self.metrics = metrics
        self.runner = Runner(router, store, metrics, limits.turn)
        self._router = router
        self._store = store
        self._connections: set[Connection] = set()
        self._transports: dict[str, TransportMetrics] = {}
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()
        self._keep_house()

    @property
    def ready(self) -> bool:
        """Whether new connections are welcome."""
        return not self._draining and len(self._connections) < self.limits.connections

    def models(self) -> Sequence[tuple[str, str]]:
        """The models there are, each with the kind of model server behind it."""
        return self._router.models

    def connect(self, tenant: str, transport: str, sink: Sink) -> "Connection":
        """Open a connection. Raises `Overloaded` when there are too many, or while draining."""
        metrics = self._metrics_of(transport)
        if self._draining:
            metrics.connected("draining")
            raise Overloaded("server_is_overloaded", _DRAINING)
        if len(self._connections) >= self.limits.connections:
            metrics.connected("limit")
            raise Overloaded("server_is_overloaded", "Too many connections. Try again later.")
        metrics.connected("accepted")
        connection = Connection(self, tenant, metrics, sink)
        self._connections.add(connection)
        self._empty.clear()
        return connection

    def rejected(self, transport: str, outcome: str) -> None:
        """Count a connection that a transport turned away: "auth", "origin" or "invalid"."""
        self._metrics_of(transport).connected(outcome)

    def left(self, connection: "Connection") -> None:
        """Forget a connection that has ended."""
        self._connections.discard(connection)
        if not self._connections:
            self._empty.set()

    async def get(self, tenant: str, response_id: str) -> responses_pb2.Response:
        """Return a stored response. Raises `NotFound`, also for another tenant's."""
        if node := await self._store.get(tenant, response_id):
            return node.response
        raise _not_found(response_id)

    async def delete(self, tenant: str, response_id: str) -> None:
        """Delete a stored response. Raises `NotFound`, also for another tenant's."""
        if not await self._store.delete(tenant, response_id):
            raise _not_found(response_id)
        for connection in self._connections:
            if connection.tenant == tenant:
                connection.forget(response_id)

    async def drain(self, grace: float) -> None:
        """Let every connection go at its next turn boundary, and cut what is left after `grace` seconds."""
        self._draining = True
        self._timer.cancel()
        self.metrics.draining.set(1)
        for connection in list(self._connections):
            connection.leave(Ending.DRAIN, _DRAINING)
        try:
            async with asyncio.timeout(grace):
                await self._empty.wait()
        except TimeoutError:
            cut = [connection.cut() for connection in list(self._connections)]
            await asyncio.gather(*cut)

    def _metrics_of(self, transport: str) -> TransportMetrics:
        if transport not in self._transports:
            self._transports[transport] = TransportMetrics(self.metrics, transport)
        return self._transports[transport]

    def _keep_house(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_HOUSEKEEPING, self._look_around)

    def _look_around(self) -> None:
        self._store.expire()
        self._keep_house()


class Connection:
    """One client: what it sends goes in here, what happens is pushed into its sink."""

    __slots__ = (
        "_age",
        "_cache",
        "_closed",
        "_engine",
        "_idle",
        "_opened",
        "_session",
        "_sink",
        "_tasks",
        "_turns",
        "interruption",
        "metrics",
        "tenant",
    )

    def __init__(self, engine: Engine, tenant: str, metrics: TransportMetrics, sink: Sink) -> None:
        self.tenant = tenant
        self.metrics = metrics
        self.interruption: ModelError | None = None
        self._engine = engine
        self._sink = sink
        self._session = Session(engine.limits.session)
        self._cache: NodeCache | None = None
        self._tasks: dict[str | None, asyncio.Task[None]] = {}
        self._idle: asyncio.Event | None = None
        self._opened = time.monotonic()
        self._closed: float | None = None
        self._turns = 0
        self._age = asyncio.get_running_loop().call_later(
            engine.limits.connection_age * (1 - random.random() * _AGE_JITTER),  # noqa: S311  # no secret
            self.leave,
            Ending.AGE,
            _OLD,
        )
        metrics.connections_open.inc()

    def receive(self, event: events_pb2.ClientEvent) -> None:
        """Take a client's event. Whatever it leads to is pushed into the sink, now or later."""
        if self._closed is None:
            self._perform(self._session.receive(event))

    def refuse(self, refusal: Refusal, stream_id: str | None = None) -> None:
        """Tell the client that its request is refused, or that what it sent could not be read."""
        self._tell([addressed(refusal.event(), stream_id)])

    def leave(self, ending: Ending, message: str) -> None:
        """End the connection at its next turn boundary."""
        if self._closed is None:
            self._perform(self._session.leave(ending, message))

    async def cut(self) -> None:
        """End the connection now; turns that run fail, and their client is told."""
        self.interruption = _CUT
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._sink.end(SessionError(Ending.DRAIN, _DRAINING))

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
        self._age.cancel()
        for task in self._tasks.values():
            task.cancel()
        self._cache = None
        self._wake()
        self.metrics.connections_open.dec()
        self.metrics.connection_turns.observe(self._turns)
        self.metrics.lived(ending.value, self._closed - self._opened)
        self._engine.left(self)

    def recall(self, response_id: str) -> Node | None:
        """Return a node that the connection itself holds."""
        return self._cache.get((self.tenant, response_id)) if self._cache else None

    def keep(self, node: Node) -> None:
        """Hold a node for the connection's next turns."""
        if self._cache is None:
            bounds = Bounds(budget=self._engine.limits.connection_cache_bytes)
            self._cache = NodeCache(bounds, time.monotonic, self._count_eviction)
        self._cache.put(node)

    def forget(self, response_id: str) -> None:
        """Let go of a node, if it is held."""
        if self._cache:
            self._cache.discard((self.tenant, response_id))

    def deliver(self, events: Sequence[Event]) -> None:
        """Send events to the client."""
        if self._closed is None:
            self._sink.deliver(events)

    @property
    def behind(self) -> bool:
        """Whether the client has so much left to read that nothing more should be produced."""
        return self._sink.congested

    async def ready(self) -> None:
        """Return when the client is no longer behind."""
        if self._sink.congested:
            await self._sink.drained()

    def _perform(self, step: Step) -> None:
        if step.events:
            self._tell(step.events)
        for effect in step.effects:
            match effect:
                case Begin():
                    self._begin(effect)
                case Forget():
                    self.forget(effect.response_id)
                case End():
                    self._sink.end(effect.error)

    def _tell(self, events: Sequence[events_pb2.ServerEvent]) -> None:
        """Deliver what the rules say, and count what they refuse."""
        for event in events:
            if event.HasField("error"):
                self.metrics.refused(event.error.status)
        self.deliver(events)

    def _begin(self, begin: Begin) -> None:
        self._turns += 1
        task = asyncio.get_running_loop().create_task(self._run(begin))
        self._tasks[begin.stream_id] = task

    async def _run(self, begin: Begin) -> None:
        began = time.monotonic()
        self.metrics.turns_inflight.inc()
        word = "cancelled"
        try:
            outcome = await self._engine.runner.run(begin, self)
            word = outcome.word
        finally:
            del self._tasks[begin.stream_id]  # before the lane's next turn takes its place
            self._count_turn(word, began)
        self._finish(begin, outcome.node)

    def _finish(self, begin: Begin, node: Node | None) -> None:
        session = self._session
        step = (
            session.finished(begin.stream_id, node.id) if node else session.failed(begin.stream_id)
        )
        self._perform(step)
        if session.idle:
            self._wake()

    def _wake(self) -> None:
        if self._idle:
            self._idle.set()

    def _count_turn(self, outcome: str, began: float) -> None:
        self.metrics.turns_inflight.dec()
        self.metrics.turn(outcome)
        self.metrics.turn_seconds.observe(time.monotonic() - began)
        if outcome == "cancelled" and self._closed is not None:
            self.metrics.abort_seconds.observe(time.monotonic() - self._closed)

    def _count_eviction(self, reason: str) -> None:
        self._engine.metrics.cache_evictions.labels("connection", reason).inc()


def _not_found(response_id: str) -> NotFound:
    return NotFound("not_found", f"Response with id '{response_id[:64]}' not found.", "response_id")
