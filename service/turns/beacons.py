"""Which responses are being made here, told to the other replicas: a light for each, while it is made.

A light is a cell that goes out by itself if its replica dies. It holds the response as it began, sealed.
Responses of a second or less have none, unless somebody may look for them from the start: what took no
longer is in the store before anybody can ask elsewhere. Who wants a response ended that another replica
makes writes so into its light, and the replica notices when it writes the next time.
"""

import asyncio
import time
from collections.abc import Collection, Coroutine, Iterable
from dataclasses import dataclass

import structlog

from service import ids
from service.errors import Refusal
from service.sealing import Seal, Unsealed
from service.store import Cell, CellName, Cells
from service.turns.run import Run
from turnwire.v1 import responses_pb2

log = structlog.get_logger(__name__)

_KIND = "live"
_TTL, _AGAIN = 12.0, 3.0  # seconds that a light burns, and after which it is lit again
_UNLIT = 1.0  # seconds for which a response needs none
_TOGETHER = 16
_END = b"end"


@dataclass(slots=True)
class _Light:
    data: bytes
    revision: int = 0
    lit_at: float = 0.0


class Beacons:
    """The lights of this replica's responses, and a look at those of the others."""

    def __init__(self, cells: Cells, seal: Seal) -> None:
        self._cells = cells
        self._seal = seal
        self._lights: dict[CellName, _Light] = {}
        self._tending: asyncio.Task[None] | None = None
        self._meanwhile: set[asyncio.Task[None]] = set()
        """What nobody waits for: the store may take long to say that it cannot be reached."""

    async def light(self, run: Run) -> None:
        """Show a response at once. Raises `StoreUnavailable`."""
        name = _name(run.plan.tenant, run.response.id)
        if name not in self._lights:
            self._lights[name] = _Light(self._sealed(run))
        await self._write(name, self._lights[name])

    async def seen(self, tenant: str, response_id: str) -> responses_pb2.Response | None:
        """Return a response that some replica makes, as it began. Raises `StoreUnavailable`."""
        if not ids.is_response(response_id):
            return None
        cell = await self._cells.read(_name(tenant, response_id))
        if cell is None:
            return None
        try:
            data = self._seal.open(tenant, _KIND, cell.data.removeprefix(_END).decode())
        except (Unsealed, ValueError):
            return None
        return responses_pb2.Response.FromString(data)

    async def end(self, tenant: str, response_id: str) -> None:
        """Ask the replica that makes a response to end it. Raises `StoreUnavailable`."""
        name = _name(tenant, response_id)
        while (cell := await self._cells.read(name)) and not cell.data.startswith(_END):
            asked = Cell(cell.revision + 1, _END + cell.data)
            if await self._cells.write(name, asked, _TTL):
                return

    def put_out(self, run: Run) -> None:
        """Show a response no longer, soon: it is kept, or nothing is left of it."""
        name = _name(run.plan.tenant, run.response.id)
        if self._lights.pop(name, None):
            self._do_meanwhile(self._drop(name))

    def show(self, runs: Collection[Run]) -> None:
        """Show responses whose client has left: it may ask for them elsewhere at once."""
        self._do_meanwhile(self._tend(runs))

    def tend(self, runs: Iterable[Run]) -> None:
        """Light what has been made for a while, again what is lit. Called about once a second."""
        if self._tending is None or self._tending.done():
            now = time.monotonic()
            due = [run for run in runs if now - self._lit_at(run) >= _AGAIN]
            if due:
                self._tending = asyncio.get_running_loop().create_task(self._tend(due))

    def _lit_at(self, run: Run) -> float:
        """Return when a response was lit; one that is young counts as lit until it is due."""
        light = self._lights.get(_name(run.plan.tenant, run.response.id))
        return light.lit_at if light else run.began_at + _UNLIT - _AGAIN

    async def _tend(self, due: Collection[Run]) -> None:
        due = list(due)
        for begin in range(0, len(due), _TOGETHER):
            some = due[begin : begin + _TOGETHER]
            failed = await asyncio.gather(*map(self._relight, some), return_exceptions=True)
            if any(isinstance(one, BaseException) for one in failed):
                log.warning("lights_not_lit")

    async def _relight(self, run: Run) -> None:
        if run.over_and_kept:
            return
        name = _name(run.plan.tenant, run.response.id)
        light = self._lights.setdefault(name, _Light(self._sealed(run)))
        if not await self._write(name, light):
            await self._look(name, light, run)
        if run.over_and_kept:  # meanwhile: that it was put out may have come before this
            await self._drop(name)

    async def _drop(self, name: CellName) -> None:
        try:
            await self._cells.drop(name)
        except Refusal:
            log.warning("light_not_put_out")  # it goes out by itself

    def _do_meanwhile(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._meanwhile.add(task)
        task.add_done_callback(self._meanwhile.discard)

    async def _look(self, name: CellName, light: _Light, run: Run) -> None:
        """Somebody else has written into the light: find out what is wanted."""
        cell = await self._cells.read(name)
        light.revision = cell.revision if cell else 0
        light.lit_at = 0.0
        if cell and cell.data.startswith(_END):
            run.stop("cancelled")

    async def _write(self, name: CellName, light: _Light) -> bool:
        if not await self._cells.write(name, Cell(light.revision + 1, light.data), _TTL):
            return False
        light.revision += 1
        light.lit_at = time.monotonic()
        return True

    def _sealed(self, run: Run) -> bytes:
        return self._seal.seal(run.plan.tenant, _KIND, run.as_begun).encode()


def _name(tenant: str, response_id: str) -> CellName:
    return CellName(tenant, _KIND, response_id)
