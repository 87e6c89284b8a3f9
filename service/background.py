"""A response that runs without its client: a connection that nobody is at the other end of."""

import asyncio
from collections.abc import Sequence

from service.connection import Connection
from service.errors import Ending, Overloaded, Refusal, SessionError
from turnwire.delta import Delta, Event
from turnwire.v1 import events_pb2, responses_pb2

_TERMINAL = {"completed", "failed", "incomplete", "error"}


class Background:
    """The sink of such a connection: it tells when the response exists, and sees to its end."""

    connection: Connection
    congested = False

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._begun: asyncio.Future[responses_pb2.Response] = loop.create_future()

    async def begin(self, create: responses_pb2.CreateResponse) -> responses_pb2.Response:
        """Ask for the response, and return it as it begins. Raises `Refusal`."""
        self.connection.receive(events_pb2.ClientEvent(create=create))
        return await self._begun

    def deliver(self, events: Sequence[Event]) -> None:
        """Look at what is not output."""
        for event in events:
            if not isinstance(event, Delta):
                self._look_at(event)

    async def drained(self) -> None:
        """Return: nothing is ever unsent."""

    def end(self, error: SessionError) -> None:
        """End, as the engine does."""
        if not self._begun.done():
            self._begun.set_exception(Overloaded("server_is_overloaded", error.message))
        self.connection.close(error.ending)

    def _look_at(self, event: events_pb2.ServerEvent) -> None:
        if not self._begun.done():
            if event.HasField("error"):
                self._begun.set_exception(Refusal.of(event.error))
            elif event.HasField("created"):
                begun = responses_pb2.Response()
                begun.CopyFrom(event.created.response)
                self._begun.set_result(begun)
        if event.WhichOneof("kind") in _TERMINAL:
            # Not now: the turn that says so is still to be counted.
            asyncio.get_running_loop().call_soon(self.connection.close, Ending.GONE)
