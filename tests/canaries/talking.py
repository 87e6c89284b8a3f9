"""What acts over all transports share: who speaks, to whom, and where what it is told is kept."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.canaries.sinks import Kept
from tests.canaries.speech import Speech
from tests.replicas.replica import Address

WAIT = 20.0
"""Seconds for an answer of a traced process on a busy machine."""
LIMIT = 64 * 1024
"""Bytes of the largest message that the service of a run takes."""
SLOW = "#sim slow 0.03 ; text 15 ; text 150"
STALLED = "#sim text 3 ; stall 60"
_ENDINGS = ("completed", "failed", "incomplete", "error")

Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
"""Has one turn; returns its last event, in its JSON form."""


@dataclass(frozen=True)
class Speaker:
    """A client that says canaries."""

    address: Address
    key: str
    speech: Speech
    refusals: Kept
    """What it is told where it is refused."""
    ended: set[str] = field(default_factory=set)
    """How its turns have ended."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Who it is, and headers of its own."""
        word = self.speech.word
        return {
            "Authorization": f"Bearer {self.key}",
            "User-Agent": word("User-Agent"),
            "X-Request-Id": word("X-Request-Id"),
            "Traceparent": f"00-{word('Traceparent')}-01",
            "Baggage": f"{word('Baggage')}={word('Baggage')}",
            word("name of a header"): word("header"),
        }

    def refused(self, said: object) -> None:
        """Keep what a refusal says."""
        self.refusals.keep(repr(said))

    async def have_turns(self, ask: Ask) -> None:
        """Have turns that end in all the ways there are, and go on from the first."""
        first = ""
        for said in self.speech.turns():
            last = await ask(said.members)
            self.ended.add(f"{said.name}: {last['type']}")
            first = first or last["response"]["id"]
        went_on = await ask({**self.speech.create(), "previous_response_id": first})
        self.ended.add(f"went on: {went_on['type']}")

    async def be_refused(self, ask: Ask) -> None:
        """Ask for what cannot be had, in all the ways there are."""
        for members in self.speech.refused():
            last = await ask(members)
            if last["type"] == "error":
                self.refused(last)
                self.ended.add("refused")


def is_last(event: Mapping[str, Any]) -> bool:
    """Tell whether an event ends a turn."""
    return str(event["type"]).removeprefix("response.") in _ENDINGS


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Fail if what is done takes too long."""
    async with asyncio.timeout(WAIT):
        yield
