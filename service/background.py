"""A response that runs without its client: a connection that nobody is at the other end of."""

import asyncio
from collections.abc import Sequence

from service.connection import Connection
from service.errors import Ending, Overloaded, Refusal, SessionError
from turnwire.delta import Delta, Event, is_last
from turnwire.v1 import events_pb2, responses_pb2


class Background:
    """The sink of such a connection: it tells when the response exists, and sees to its end."""

    congested = False

    def __init__(self) -> None:
        self._begun: asyncio.Future[responses_pb2.Response] | None = None
        self._connection: Connection | None = None

    async def begin(
        self, connection: Connection, create: responses_pb2.CreateResponse
    ) -> responses_pb2.Response:
        """Ask for the response, and return it as it begins. Raises `Refusal`."""
        self._connection = connection
        self._begun = asyncio.get_running_loop().create_future()
        connection.receive(events_pb2.ClientEvent(create=create))
        try:
            return await self._begun
        finally:
            self._begun = None

    def deliver(self, events: Sequence[Event]) -> None:
        """Look at what is not output."""
        for event in events:
            if not isinstance(event, Delta):
                self._look_at(event)

    async def drained(self) -> None:
        """Return: nothing is ever unsent."""

    def end(self, error: SessionError) -> None:
        """End, as the engine does."""
        if self._begun and not self._begun.done():
            self._begun.set_exception(Overloaded("server_is_overloaded", error.message))
        self._close(error.ending)

    def _look_at(self, event: events_pb2.ServerEvent) -> None:
        if self._begun and not self._begun.done():
            if event.HasField("error"):
                self._begun.set_exception(Refusal.of(event.error))
            elif event.HasField("created"):
                begun = responses_pb2.Response()
                begun.CopyFrom(event.created.response)
                self._begun.set_result(begun)
        if is_last(event):
            # Not now: the turn that says so is still to be counted.
            asyncio.get_running_loop().call_soon(self._close, Ending.GONE)

    def _close(self, ending: Ending) -> None:
        """Close the connection, and let go of it: each knows the other."""
        connection, self._connection = self._connection, None
        if connection:
            connection.close(ending)
