"""The engine: everything that the transports can ask for, and the connections that are open.

Whatever one face can say, the others can: they all say it here.
"""

import asyncio
import dataclasses
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from service.audit import Journal
from service.background import Background
from service.census import Census
from service.compaction import Compactions, Compactor
from service.compaction.compactors import ModelCompactor
from service.connection import GOING_AWAY, Connection, ConnectionLimits, Sink
from service.conversations import Conversations
from service.conversations.tips import Tips
from service.errors import Ending, ModelError, Overloaded, RateLimited, SessionError
from service.identity import Anonymous, Identities, Identity
from service.limits import MIB, TurnLimits
from service.memory import Memory, Pressure
from service.metrics import Metrics, TransportMetrics
from service.moderation import Classifier, Moderator, VerdictCache
from service.responses import Responses
from service.router import Router
from service.sealing import Seal
from service.store import Stores
from service.tenants import Tenants
from service.turns.beacons import Beacons
from service.turns.claims import Claims
from service.turns.live import Live
from service.turns.plan import Means
from service.turns.run import Run
from service.turns.runner import Runner, State
from turnwire.v1 import responses_pb2
from turnwire.v1 import session_service_pb2 as rpc

_HOUSEKEEPING = 15.0
"""Seconds between two looks at what has become too old."""
_WATCH = 1.0
"""Seconds between two looks at what must not wait: memory, and credentials that are no longer good."""
_BACKGROUND = "background"
_CUT = ModelError("server_error", "The server is going away and could not wait for the response.")
_DRAINED = SessionError(Ending.DRAIN, GOING_AWAY)
_OUTCAST = ModelError("invalid_api_key", "The credential was revoked while the response was made.")
_REVOKED = SessionError(Ending.REVOKED, "The credential is no longer good. Reconnect with another.")
_EXPIRED = "The credential has expired. Reconnect with a new one and continue."


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineLimits:
    """What the engine allows, in seconds and bytes."""

    connection: ConnectionLimits = field(default_factory=ConnectionLimits)
    turn: TurnLimits = field(default_factory=TurnLimits)
    connections: int = 20_000
    """Of clients, all transports together."""
    background: int = 64
    """Responses that a tenant may have made in the background at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policies:
    """What the operator wants to be done beside generating."""

    seal: Seal = field(default_factory=Seal.ephemeral)
    """Closes what clients keep for us."""
    compactor: Compactor = field(default_factory=ModelCompactor)
    classifiers: Sequence[Classifier] = ()
    """What input and output can be screened with."""
    verdict_bytes: int = 4 * MIB
    """Memory for the verdicts of one tenant."""
    identities: Identities = field(default_factory=Anonymous)
    """Says whether who opened a connection may still have it."""
    tenants: Tenants = field(default_factory=Tenants)
    """What each tenant may have."""
    journal: Journal | None = None
    """Where ended turns are written down."""
    memory: Memory = field(default_factory=Memory)
    """What all conversations are held in."""

    def quota_of(self, tenant: str) -> int | None:
        """Return how many bytes a tenant may have stored; None is no bound."""
        return self.tenants.allowance(tenant).stored_bytes

    def screening_of(self, tenant: str) -> responses_pb2.ModerationSettings | None:
        """Return how all turns of a tenant are screened at least, if they are."""
        return self.tenants.allowance(tenant).screening


class Engine:
    """All conversations of this process."""

    def __init__(
        self,
        router: Router,
        stores: Stores,
        metrics: Metrics,
        limits: EngineLimits,
        policies: Policies,
    ) -> None:
        self.limits = limits
        self.metrics = metrics
        self.tenants = policies.tenants
        self.memory = policies.memory
        self._identities = policies.identities
        self._router = router
        self._stores = stores
        self._started = int(time.time())
        means = Means(Compactions(policies.seal), policies.compactor, limits.turn)
        self.moderator = _moderator(policies, metrics)
        find, admit = stores.responses.get, self.moderator.admit
        tips = Tips(means.compactions.legible, find, limits.turn.conversation_bytes, admit)
        self.conversations = Conversations(stores.conversations, tips)
        self._state = _state(stores, policies, self.conversations)
        self.runner = Runner(router, self._state, means, self.moderator, metrics)
        self.responses = Responses(self._state, self.runner, means, self.tenants, self._forget)
        self._census = Census()
        self._expelled: dict[Connection, asyncio.Task[None]] = {}
        self._transports: dict[str, TransportMetrics] = {}
        self._draining = False
        self._loop = asyncio.get_running_loop()
        self._keep_house()
        self._watch()

    @property
    def ready(self) -> bool:
        """Whether new connections are welcome."""
        return not self._draining and self._has_room

    def models(self) -> rpc.ListModelsResponse:
        """The models there are, each with the kind of model server behind it."""
        models = [
            rpc.Model(id=name, object="model", owned_by=kind, created=self._started)
            for name, kind in self._router.models
        ]
        return rpc.ListModelsResponse(object="list", models=models)

    def connect(self, caller: Identity, transport: str, sink: Sink) -> Connection:
        """Open a connection.

        Raises `Overloaded` when there are too many, or too little memory, or while draining, and
        `RateLimited` when the tenant has as many as it may.
        """
        metrics = self._metrics_of(transport)
        self._check_not_draining(metrics)
        self._check_room(metrics)
        try:
            self.tenants.of(caller.tenant).open()
        except RateLimited:
            metrics.connected("limit")
            raise
        return self._open(Connection(caller, sink, self, metrics, self.limits.connection))

    async def start(
        self, caller: Identity, create: responses_pb2.CreateResponse
    ) -> responses_pb2.Response:
        """Have a response made in the background; return it as it begins. Raises `Refusal`."""
        if not self.may_detach(caller.tenant, 1):
            raise RateLimited(
                f"{self.limits.background} responses are being made in the background already. "
                "Wait for some of them."
            )
        metrics = self._metrics_of(_BACKGROUND)
        self._check_not_draining(metrics)
        usual = self.limits.connection
        session = dataclasses.replace(usual.session, background=True)
        limits, background = dataclasses.replace(usual, session=session), Background()
        connection = self._open(Connection(caller, background, self, metrics, limits))
        return await background.begin(connection, create)

    def welcomes(self, caller: Identity) -> bool:
        """Tell whether who has come in may still be here."""
        return self._identities.holds(caller)

    def admit(self) -> None:
        """Let a change be made that is no connection's. Raises `Overloaded` while draining."""
        if self._draining:
            raise Overloaded("server_is_overloaded", GOING_AWAY)

    def refused(self, transport: str, status: int) -> None:
        """Count a request that a transport refused, or that was refused on no connection."""
        self._metrics_of(transport).refused(status)

    def rejected(self, transport: str, outcome: str) -> None:
        """Count a connection that a transport turned away: "auth", "origin" or "invalid"."""
        self._metrics_of(transport).connected(outcome)

    def may_detach(self, tenant: str, more: int) -> bool:
        """Tell whether so many more of a tenant's responses may be made without a client."""
        return self._census.unattended(tenant) + more <= self.limits.background

    def show(self, runs: Collection[Run]) -> None:
        """Let other replicas see turns that go on without their client."""
        self._state.beacons.show(runs)

    def left(self, connection: Connection) -> None:
        """A connection has ended; turns of it that go on, or are being ended, may be left."""
        self._census.left(connection)
        self._expelled.pop(connection, None)
        if not connection.background:
            connection.account.close()

    def settled(self, connection: Connection) -> None:
        """Forget a connection that has ended: nothing of it is left."""
        self._census.settled(connection)
        self._expelled.pop(connection, None)

    async def drain(self, grace: float) -> None:
        """Let every connection go at its next turn boundary, and cut what is left after `grace` seconds."""
        self._draining = True
        self._timer.cancel()
        self.metrics.draining.set(1)
        for connection in self._census.open:
            connection.leave(Ending.DRAIN, GOING_AWAY)
        try:
            async with asyncio.timeout(grace):
                await self._census.empty()
        except TimeoutError:
            cut = [connection.cut(_CUT, _DRAINED) for connection in self._census.all]
            await asyncio.gather(*cut)
        finally:
            self._watching.cancel()

    @property
    def _has_room(self) -> bool:
        few = self._census.clients < self.limits.connections
        return few and self.memory.pressure < Pressure.HARD

    def _check_room(self, metrics: TransportMetrics) -> None:
        if self._has_room:
            return
        metrics.connected("limit")
        raise Overloaded("server_is_overloaded", "Too many connections. Try again later.")

    def _check_not_draining(self, metrics: TransportMetrics) -> None:
        if self._draining:
            metrics.connected("draining")
            raise Overloaded("server_is_overloaded", GOING_AWAY)

    def _open(self, connection: Connection) -> Connection:
        connection.metrics.connected("accepted")
        self._census.opened(connection)
        return connection

    def _forget(self, tenant: str, response_id: str) -> None:
        for connection in self._census.open:
            if connection.tenant == tenant:
                connection.forget(response_id)

    def _metrics_of(self, transport: str) -> TransportMetrics:
        if transport not in self._transports:
            self._transports[transport] = TransportMetrics(self.metrics, transport)
        return self._transports[transport]

    def _keep_house(self) -> None:
        self._timer = self._loop.call_later(_HOUSEKEEPING, self._look_around)

    def _look_around(self) -> None:
        self._keep_house()  # first: a defect in what follows must not be the end of it
        self._stores.responses.expire()
        self.conversations.expire()

    def _watch(self) -> None:
        self._watching = self._loop.call_later(_WATCH, self._watch)
        self.memory.look()
        self._state.beacons.tend(self._state.live.runs)
        for connection in self._census.all - self._expelled.keys():
            if not self.welcomes(connection.caller):
                self._expelled[connection] = self._loop.create_task(self._expel(connection))
                self.metrics.revocations.inc()

    async def _expel(self, connection: Connection) -> None:
        """Let a connection go whose client may no longer have it: at once, if that was taken from it."""
        if time.time() >= connection.caller.expires:
            connection.leave(Ending.REVOKED, _EXPIRED)
        else:
            await connection.cut(_OUTCAST, _REVOKED)


def _moderator(policies: Policies, metrics: Metrics) -> Moderator:
    verdicts = VerdictCache(policies.verdict_bytes, metrics)
    policies.memory.relieve(verdicts.clear)
    return Moderator(policies.classifiers, verdicts, policies.screening_of)


def _state(stores: Stores, policies: Policies, conversations: Conversations) -> State:
    return State(
        store=stores.responses,
        conversations=conversations,
        live=Live(),
        beacons=Beacons(stores.cells, policies.seal),
        claims=Claims(stores.cells, policies.seal),
        journal=policies.journal,
        memory=policies.memory,
    )
