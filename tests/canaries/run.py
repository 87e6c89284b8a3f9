"""A run: clients say canaries over all transports, the service is ended, and every sink is searched."""

import asyncio
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from tests.canaries import kept, over_grpc, over_http, over_websocket
from tests.canaries.bystanders import Bystanders
from tests.canaries.canary import Canaries
from tests.canaries.sinks import Kept, Searched, search
from tests.canaries.speech import FLAGGED, Speech
from tests.canaries.stores import StoreWatch
from tests.canaries.talking import Speaker
from tests.canaries.watched import Watched, watched

TRANSPORTS = {"WebSocket": over_websocket, "HTTP": over_http, "gRPC": over_grpc}
SPEAKER = "alice"
REFUSALS = "what refusals say, to who was refused"
NAMED = (
    *("model,", "previous_response_id,", "response_id,", "path,", "item_reference,", "call_id,"),
    "steering,",
)
"""What a refusal may name; steering that comes to nothing is given back."""


@dataclass(frozen=True)
class Report:
    """What came of a run."""

    name: str
    stored: bool
    said: int
    """Canaries."""
    kept: int
    """Records and cells in the store when all had been said."""
    ended: frozenset[str]
    """How turns ended."""
    searched: Sequence[Searched]
    answered: bool
    """Whether clients were told their canaries: that they were heard, and are found where they are."""
    unseen: Sequence[str]
    """System calls that wrote without showing what."""
    traced: bool
    obeyed: bool
    """Whether its model does as it is told."""

    @property
    def found(self) -> Iterator[tuple[str, str, str]]:
        """Yield where each canary was found, where it was said, and its form."""
        for one in self.searched:
            for place, form in sorted(one.found):
                yield one.name, place, form


@dataclass(frozen=True)
class Row:
    """What is run."""

    name: str
    store: StoreWatch
    settings: Mapping[str, str]
    model: str = "simulator"
    told: Collection[int] = ()
    """Ports of servers that are asked in clients' words."""

    @property
    def obeys(self) -> bool:
        """Whether the model does as it is told."""
        return self.model == "simulator"


async def run(row: Row, *, stored: bool) -> Report:
    """Have clients say everything to a service that is started for it, and search everything."""
    with tempfile.TemporaryDirectory(prefix="canaries-") as folder:
        given = {**_screening(Path(folder)), **row.settings, **row.store.settings}
        settings = {name: value for name, value in given.items() if value}
        async with watched(Path(folder), settings, row.told) as service:
            service.model = row.model
            return await _Run(row, service, stored).report()


class _Run:
    def __init__(self, row: Row, service: Watched, stored: bool) -> None:
        self._row = row
        self._service = service
        self._stored = stored
        self._canaries = Canaries()
        self._refusals = Kept(REFUSALS, b"previous_response_not_found")
        self._bystanders = Bystanders(service)

    async def report(self) -> Report:
        """Say everything, end the service, and search."""
        speakers = list(self._speakers())
        records = await self._said(speakers)
        told_elsewhere = (self._bystanders.told, self._refusals)
        sinks = [*self._service.sinks(), *self._row.store.sinks(), *told_elsewhere]
        trace = self._service.trace
        answers = trace.told() if trace else iter(())
        searched = [_excused(one) for one in search(sinks, self._canaries)]
        return Report(
            name=self._row.name,
            stored=self._stored,
            said=len(self._canaries),
            kept=records,
            ended=frozenset().union(*(speaker.ended for speaker in speakers)),
            searched=searched,
            answered=any(self._canaries.find(piece) for piece in answers),
            unseen=trace.unseen() if trace else (),
            traced=trace is not None,
            obeyed=self._row.obeys,
        )

    def _speakers(self) -> Iterator[Speaker]:
        key = self._service.keys[SPEAKER]
        for name in TRANSPORTS:
            where = f"{name}, store: {str(self._stored).lower()}"
            speech = Speech(self._canaries, where, model=self._row.model, stored=self._stored)
            yield Speaker(self._service.address, key, speech, self._refusals)

    async def _said(self, speakers: Sequence[Speaker]) -> int:
        """Say everything; return how much is in the store just before the service is ended."""
        async with self._bystanders.standing(), AsyncExitStack() as open_turns:
            await self._bystanders.ask()
            await asyncio.gather(*map(self._speak, TRANSPORTS.values(), speakers))
            if self._stored:
                await kept.keep(speakers[1])
            await self._bystanders.ask()
            if self._row.obeys:
                for transport, speaker in zip(TRANSPORTS.values(), speakers, strict=True):
                    await open_turns.enter_async_context(transport.stalled(speaker))
            await self._look_around(speakers[0].speech)
            records = self._row.store.kept()
            await self._service.process.stop()
        await self._service.traced()
        return records

    async def _look_around(self, speech: Speech) -> None:
        word = speech.word
        await self._service.scrape(f"/{word('path of the operations port')}?{word('query')}=1")
        asked = await over_grpc.ask_health(self._service.health_target, word("service of health"))
        self._service.told.keep(asked)

    async def _speak(self, transport: ModuleType, speaker: Speaker) -> None:
        await transport.speak(speaker)
        if self._row.obeys:
            await transport.direct(speaker)


def _excused(searched: Searched) -> Searched:
    """Leave out the names that refusals repeat, to who said them."""
    if searched.name != REFUSALS:
        return searched
    found = frozenset(one for one in searched.found if not one.place.startswith(NAMED))
    return searched._replace(found=found)


def _screening(folder: Path) -> dict[str, str]:
    """Return the settings of a classifier, and of a compactor that breaks."""
    rules = folder / "rules.toml"
    rules.write_text(f"[words]\npatterns = ['{FLAGGED}']\nscore = 0.9\n")
    return {
        "moderation_rules_file": str(rules),
        "compactor": "tests.canaries.breaking:Breaking",
    }
