"""What clients asked for and what came of it, and the proof that nothing they were promised was lost."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import httpx
from rich.console import Console
from rich.table import Table

from tests.conformance.conversation import Conversation
from tests.replicas.clients import api, talking
from tests.replicas.replica import Address

_AT_ONCE = 8
"""Responses that are looked for at once."""


class Promise(NamedTuple):
    """A response that a client was told is complete, and stored."""

    id: str
    turns: int
    """Of its conversation, its own included."""


class Tally:
    """What became of turns."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.attempts = 0
        self.promised: list[Promise] = []
        self.told: Counter[str] = Counter()
        """Turns that failed or were refused, by the code their client was told."""
        self.cut = 0
        """Turns whose connection was closed, or not even opened."""
        self.silent = 0
        """Turns whose client heard nothing: neither an end nor that of the connection."""
        self.lost: list[str] = []
        """What is wrong with what was promised."""

    @property
    def acknowledged(self) -> int:
        """How many turns came to a good end."""
        return len(self.promised)

    async def verify(self, address: Address, promised: Iterable[Promise]) -> None:
        """Look for responses that were promised: each can be retrieved and continued, or it is lost."""
        waiting = list(promised)

        async def look() -> None:
            async with api(address) as client, talking("websocket", address) as chat:
                while waiting:
                    await self._look(waiting.pop(), client, chat)

        await asyncio.gather(*(look() for _ in range(_AT_ONCE)))

    async def _look(self, promise: Promise, client: httpx.AsyncClient, chat: Conversation) -> None:
        answer = await client.get(f"/responses/{promise.id}")
        if answer.status_code != 200 or answer.json()["status"] != "completed":
            self.lost.append(f"not retrieved: {answer.status_code}")
        heard = await chat.sim("history", previous_response_id=promise.id, store=False)
        if heard.kinds[-1] != "completed":
            self.lost.append("not continued")
        elif heard.text != str(2 * promise.turns + 1):
            self.lost.append(f"continued without all of it: {heard.text} items")

    def show(self) -> None:
        """Print the figures."""
        table = Table("attempts", "acknowledged", "failed and told", "cut off", "silent", "lost")
        told = ", ".join(f"{count} {code}" for code, count in self.told.items())
        row = [self.attempts, self.acknowledged, told or 0, self.cut, self.silent, len(self.lost)]
        table.add_row(*map(str, row))
        table.title = self.name
        Console(width=110).print(table)

    def expect_kept(self) -> None:
        """Expect that nothing was lost and nobody was left waiting."""
        assert not self.lost, Counter(self.lost)
        assert self.silent == 0
        assert self.attempts == self.acknowledged + self.told.total() + self.cut
        assert self.acknowledged
