"""Responses that are told a second time: to a client that resumes one, or sends the same create again."""

from contextlib import aclosing, suppress
from dataclasses import dataclass

from service.errors import NotFound, Overloaded, Refusal, SessionError
from service.metrics import Metrics
from service.store import Store, StoreUnavailable
from service.turns.beacons import Beacons
from service.turns.claims import Claim, Claims
from service.turns.following import Batches, Following
from service.turns.outcome import Outcome
from service.turns.plan import Caller
from service.turns.run import Run
from turnwire.delta import Event, is_last, to_message
from turnwire.v1 import events_pb2, responses_pb2

_LOST = "What became of the response is lost. Send the request again."
_NO_MORE = "The response has ended, and has no event after 'starting_after'."


@dataclass(frozen=True, slots=True)
class Repeat:
    """A response that exists, and the lane that asks for it."""

    response_id: str
    stream_id: str | None
    events: Batches
    store: Store

    async def tell(self, caller: Caller) -> Outcome:
        """Tell the client the whole response, no faster than it reads. Raises `StoreUnavailable`."""
        last = None
        try:
            async with aclosing(self.events):
                async for batch in self.events:
                    caller.deliver([self._addressed(event) for event in batch])
                    last = batch[-1]
                    await caller.ready()
        except SessionError as error:
            return Outcome("refused", refusal=Overloaded("server_is_overloaded", error.message))
        if last and is_last(last):
            return await self._outcome(to_message(last), caller.tenant)
        if last is None and await self.store.retrieve(caller.tenant, self.response_id):
            refusal = Refusal("invalid_value", _NO_MORE, "starting_after")
            return Outcome("refused", refusal=refusal)
        return Outcome("refused", refusal=Overloaded("server_is_overloaded", _LOST))

    async def _outcome(self, last: events_pb2.ServerEvent, tenant: str) -> Outcome:
        """Return how the response ended. Where the store is away now, it cannot be continued either."""
        ended = getattr(last, last.WhichOneof("kind") or "").response
        if ended.status == "cancelled":
            return Outcome("cancelled")
        with suppress(StoreUnavailable):
            node = await self.store.get(tenant, self.response_id)
            if node and node.continuable:
                return Outcome("ok", node, output=ended.output)
        return Outcome("failed")

    def _addressed(self, event: Event) -> Event:
        """Return an event as one of this lane's."""
        if self.stream_id is None:
            return event
        addressed = events_pb2.ServerEvent()
        addressed.CopyFrom(to_message(event))
        addressed.stream_id = self.stream_id
        return addressed


class Repeats:
    """Finds what is to be told again, and sees to it that the same create is answered once."""

    def __init__(
        self, following: Following, store: Store, claims: Claims, beacons: Beacons, metrics: Metrics
    ) -> None:
        self._following = following
        self._store = store
        self._claims = claims
        self._beacons = beacons
        self._counter = metrics.repeated

    async def resumed(
        self, resume: events_pb2.ResumeResponse, stream_id: str | None, caller: Caller
    ) -> Repeat:
        """Return a response that is to be heard again, from where its client has lost it.

        Raises `NotFound`, `RateLimited` and `StoreUnavailable`.
        """
        after = resume.starting_after if resume.HasField("starting_after") else -1
        return await self._repeat(resume.response_id, stream_id, caller, after)

    async def of(self, claim: Claim, stream_id: str | None, caller: Caller) -> Repeat | None:
        """Return the response that was begun for a key, unless nothing is left of it.

        Raises `RateLimited` and `StoreUnavailable`.
        """
        if not claim.response_id:
            return None
        try:
            repeat = await self._repeat(claim.response_id, stream_id, caller)
        except NotFound:
            return None
        self._counter.labels("again").inc()
        return repeat

    async def claimed(self, run: Run, create: responses_pb2.CreateResponse, claim: Claim) -> bool:
        """Make a run's response the one that answers its key; tell whether nobody else's does.

        Raises `Refusal` for one that is not stored, and `StoreUnavailable`.
        """
        if not run.plan.request.store:
            message = (
                "'idempotency_key' needs a response that is stored: leave it out, or 'store' in."
            )
            raise Refusal("invalid_value", message, "idempotency_key")
        taken, mine = Claim(claim.revision + 1, run.response.id), False
        try:
            await self._beacons.light(run)  # seen before the claim is: who finds that finds this
            mine = await self._claims.take(run.plan.tenant, create, taken)
        finally:
            if not mine:  # also where it is not known: then nobody makes it
                self._beacons.put_out(run)
        if mine:
            self._counter.labels("first").inc()
        return mine

    async def _repeat(
        self, response_id: str, stream_id: str | None, caller: Caller, after: int = -1
    ) -> Repeat:
        events = await self._following.events(caller.tenant, response_id, after)
        return Repeat(response_id, stream_id, events, self._store)
