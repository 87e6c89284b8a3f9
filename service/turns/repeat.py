"""A response that is told to a client that asks for it a second time, in the place of another one."""

from contextlib import aclosing
from dataclasses import dataclass

from service.errors import Overloaded, SessionError
from service.store import Store
from service.turns.following import Batches
from service.turns.outcome import Outcome
from service.turns.plan import Caller
from turnwire.delta import Event, is_last, to_message
from turnwire.v1 import events_pb2

_LOST = "What became of the same request is lost. Send it again under a new idempotency key."


@dataclass(frozen=True, slots=True)
class Repeat:
    """A response that exists, and the lane that asks for it."""

    response_id: str
    stream_id: str | None
    events: Batches
    store: Store

    async def tell(self, caller: Caller) -> Outcome:
        """Tell the client the whole response, no faster than it reads."""
        last = None
        try:
            async with aclosing(self.events):
                async for batch in self.events:
                    caller.deliver([self._addressed(event) for event in batch])
                    last = batch[-1]
                    await caller.ready()
        except SessionError as error:
            return Outcome("refused", refusal=Overloaded("server_is_overloaded", error.message))
        if last is None or not is_last(last):
            return Outcome("refused", refusal=Overloaded("server_is_overloaded", _LOST))
        return await self._outcome(to_message(last), caller.tenant)

    async def _outcome(self, last: events_pb2.ServerEvent, tenant: str) -> Outcome:
        ended = getattr(last, last.WhichOneof("kind") or "").response
        if ended.status == "cancelled":
            return Outcome("cancelled")
        node = await self.store.get(tenant, self.response_id)
        if node is None or not node.continuable:
            return Outcome("failed")
        return Outcome("ok", node, output=ended.output)

    def _addressed(self, event: Event) -> Event:
        """Return an event as one of this lane's."""
        if self.stream_id is None:
            return event
        addressed = events_pb2.ServerEvent()
        addressed.CopyFrom(to_message(event))
        addressed.stream_id = self.stream_id
        return addressed
