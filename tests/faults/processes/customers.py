"""Clients that go on with their conversations whatever happens, as those do that are well written."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
from websockets.exceptions import WebSocketException

from tests.conformance.clients import Ended
from tests.conformance.conversation import Conversation, Heard
from tests.faults.processes.tally import Promise, Tally
from tests.replicas.clients import talking
from tests.replicas.replica import Address

CLOSED = (
    Ended,
    OSError,
    WebSocketException,
    httpx.TransportError,
    grpc.aio.AioRpcError,
    json.JSONDecodeError,
)
"""How a client learns that its connection is gone, or cannot be opened: Envoy's own words are no JSON."""
_TURN = "#sim slow 0.01 ; text 8"
_LONGEST = 20
"""Turns of a conversation; the next begins another one."""
_PAUSE = 0.05
"""Seconds before a client tries again what has just failed: others have their turn."""


@dataclass
class Customer:
    """A client, on one connection until that is closed and then on the next."""

    transport: str
    address: Address
    tally: Tally
    settings: dict[str, Any] = field(default_factory=lambda: {"store": True})
    conversation: str | None = None
    """What it sends Envoy, to come to the same replica each time."""
    _tip: Promise | None = None
    _since: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            try:
                async with talking(self.transport, self.address, self.conversation) as chat:
                    await self._converse(chat)
            except CLOSED:
                await asyncio.sleep(_PAUSE)

    async def served(self) -> None:
        """Wait for a turn that comes to a good end from now on."""
        self._since.clear()
        await self._since.wait()

    async def _converse(self, chat: Conversation) -> None:
        while True:
            self.tally.attempts += 1
            try:
                heard = await chat.ask(_TURN, **self.settings, **self._continuing())
            except TimeoutError:
                self.tally.silent += 1
                raise Ended(frozenset()) from None
            except (*CLOSED, asyncio.CancelledError):
                self.tally.cut += 1
                raise
            await self._note(heard)

    def _continuing(self) -> dict[str, str]:
        if self._tip is None or self._tip.turns >= _LONGEST:
            self._tip = None
            return {}
        return {"previous_response_id": self._tip.id}

    async def _note(self, heard: Heard) -> None:
        if heard.kinds[-1] == "completed":
            self._tip = Promise(heard.id, 1 + (self._tip.turns if self._tip else 0))
            self.tally.promised.append(self._tip)
            self._since.set()
            return
        code = _code(heard)
        self.tally.told[code] += 1
        if code == "previous_response_not_found":
            self._tip = None
        await asyncio.sleep(_PAUSE)


@asynccontextmanager
async def at_work(customers: Sequence[Customer]) -> AsyncIterator[None]:
    """Have clients converse for as long as the context lasts. What is wrong with one ends it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(customer.run()) for customer in customers]
        yield
        for task in tasks:
            task.cancel()


def _code(heard: Heard) -> str:
    if heard.kinds[-1] == "error":
        assert heard.error.error.code != "store_unavailable" or heard.error.status == 503
        return heard.error.error.code
    return heard.response.error.code or heard.kinds[-1]
