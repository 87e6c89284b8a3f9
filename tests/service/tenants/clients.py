"""A client of an engine, without a transport between them."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from service.engine import Engine
from service.errors import SessionError
from service.identity import Identity
from turnwire import json_codec
from turnwire.delta import Event, is_last, to_message
from turnwire.v1 import events_pb2

CALLER = Identity("acme", "k1")


class Client:
    """One connection, and what it was told."""

    congested = False

    def __init__(self, engine: Engine) -> None:
        self.told: list[events_pb2.ServerEvent] = []
        self.last = asyncio.Event()
        self.speaking = asyncio.Event()
        self.connection = engine.connect(CALLER, "websocket", self)

    def deliver(self, events: Sequence[Event]) -> None:
        self.told += map(to_message, events)
        if any(event.HasField("output_text_delta") for event in self.told):
            self.speaking.set()
        if any(is_last(event) for event in events):
            self.last.set()

    async def drained(self) -> None:
        pass

    def end(self, error: SessionError) -> None:
        pass

    def begin(self, create: Mapping[str, Any]) -> None:
        frame = json.dumps({"type": "response.create", "model": "simulator", **create})
        self.connection.receive(json_codec.decode(events_pb2.ClientEvent, frame))

    async def ask(self, create: Mapping[str, Any]) -> events_pb2.ServerEvent:
        """Have a response made; return the event that ended it."""
        self.begin(create)
        async with asyncio.timeout(10):
            await self.last.wait()
        self.last.clear()
        return self.told[-1]
