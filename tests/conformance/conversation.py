"""What tests say and hear over a connection, whatever carries it.

Every event that is heard is checked against the protocol's fields: each test is a test of the schema.
"""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from tests.conformance.clients import Client
from tests.conformance.schema.fields import PROTOCOL
from turnwire import json_codec
from turnwire.v1 import events_pb2, responses_pb2

WAIT = 10.0
TERMINAL = {"completed", "failed", "incomplete", "error"}


class Heard(list[events_pb2.ServerEvent]):
    """The events of one turn."""

    @property
    def kinds(self) -> list[str]:
        return [event.WhichOneof("kind") or "" for event in self]

    @property
    def response(self) -> responses_pb2.Response:
        last = self[-1]
        kind = last.WhichOneof("kind")
        assert kind in {"completed", "failed", "incomplete"}, last
        snapshot: responses_pb2.Response = getattr(last, kind).response
        return snapshot

    @property
    def error(self) -> events_pb2.ErrorEvent:
        assert self[-1].HasField("error"), self[-1]
        return self[-1].error

    @property
    def text(self) -> str:
        parts = [part for item in self.response.output for part in item.message.content]
        return "".join(part.output_text.text for part in parts)

    @property
    def id(self) -> str:
        return self.response.id


class Conversation:
    """A connection, and the two things to do with it."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def send(self, **members: Any) -> None:
        """Send an event, written as the JSON its members would be."""
        frame = json.dumps({"type": "response.create", "model": "simulator", **members})
        await self.client.send(json_codec.decode(events_pb2.ClientEvent, frame))

    async def receive(self) -> events_pb2.ServerEvent:
        async with asyncio.timeout(WAIT):
            event = await self.client.receive()
        assert PROTOCOL.event_faults(json.loads(json_codec.encode(event))) == []
        return event

    async def hear(self) -> Heard:
        """Receive up to the end of a turn, or a refusal."""
        heard = Heard()
        while not heard or heard.kinds[-1] not in TERMINAL:
            heard.append(await self.receive())
        return heard

    async def hear_until(self, kind: str) -> Heard:
        """Receive up to the first event of a kind."""
        heard = Heard()
        while not heard or heard.kinds[-1] != kind:
            heard.append(await self.receive())
        return heard

    async def hear_lanes(self, lanes: Sequence[str]) -> dict[str, Heard]:
        """Receive one whole turn on each of several lanes."""
        heard = {lane: Heard() for lane in lanes}
        while any(not turn or turn.kinds[-1] not in TERMINAL for turn in heard.values()):
            event = await self.receive()
            heard[event.stream_id].append(event)
        return heard

    async def ask(self, text: str = "hello", **members: Any) -> Heard:
        """Have one turn."""
        await self.send(**{"input": text, **members})
        return await self.hear()

    async def sim(self, directives: str, **members: Any) -> Heard:
        """Have one turn in which the simulator does as told."""
        return await self.ask(f"#sim {directives}", **members)
