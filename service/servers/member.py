"""One model server as the service sees it: its adapter, its turns in flight, how it fares."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

import structlog

from service.backends import Backend
from service.errors import ModelError, Unavailable
from service.metrics import Metrics
from service.servers import Server
from service.servers.choice import Candidate
from service.servers.circuit import Circuit, Health
from service.servers.detection import identified

log = structlog.get_logger(__name__)

_MOST_MODELS = 4096
_LONGEST_NAME = 256
_DEFECT = ModelError("server_error", "The service failed to ask it.")
_LATE = ModelError("server_error", "It did not answer in time.")

Make: TypeAlias = Callable[[Server], Backend]
"""Makes the adapter of a server whose kind is known, in a thread. Raises `ModelError`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How servers are watched, in seconds."""

    interval: float = 5.0
    """Between two looks at a server, give or take a fifth."""
    check: float = 3.0
    """For a server to say that it is well."""
    meeting: float = 60.0
    """To find out what a server is."""
    patience: float = 10.0
    """For all to be met, before the service starts without those that are missing."""
    failures: int = 3
    """In a row, before nobody is sent to a server any more."""


@dataclass(eq=False, slots=True)
class _Life:
    """A server from when it was met until it was away."""

    backend: Backend
    listed: Mapping[str, str]
    """The models that it lists, under its own names for them."""
    turns: int = 0


class Member:
    """A model server of a fleet."""

    def __init__(self, server: Server, make: Make, pace: Pace, metrics: Metrics) -> None:
        self.server = server
        self.failure: ModelError | None = None
        """What was wrong when it was looked at last."""
        self.looked = asyncio.Event()
        """Set once it was looked at."""
        self._make = make
        self._pace = pace
        self._circuit = Circuit(pace.failures)
        self._lives: list[_Life] = []  # the last one is the present one
        self._waiting: set[asyncio.Timeout] = set()
        self._up = metrics.server_up.labels(server.name)
        self._inflight = metrics.server_turns_inflight.labels(server.name)
        self._up.set(0)

    @property
    def name(self) -> str:
        """The operator's name for it."""
        return self.server.name

    @property
    def up(self) -> bool:
        """Whether it can be asked."""
        return self._circuit.health is not Health.DOWN

    @property
    def backend(self) -> Backend | None:
        """Its adapter, once it was met."""
        return self._lives[-1].backend if self._lives else None

    @property
    def models(self) -> Mapping[str, str]:
        """The names of its models, each with what it calls them; as far as that is known."""
        return self.server.models or (self._lives[-1].listed if self._lives else {})

    @property
    def candidate(self) -> Candidate:
        """What the choice between servers goes by."""
        on_trial = self._circuit.health is Health.TRIAL
        load = sum(life.turns for life in self._lives)
        return Candidate(self.name, self.server.weight, load, on_trial)

    @contextmanager
    def turn(self) -> Iterator[Backend]:
        """Ask it something. It must be up."""
        life = self._lives[-1]
        life.turns += 1
        self._inflight.inc()
        try:
            yield life.backend
        finally:
            life.turns -= 1
            self._inflight.dec()

    @asynccontextmanager
    async def patience(self) -> AsyncGenerator[None]:
        """Wait for it to begin to answer, for as long as it is up. Raises `Unavailable`."""
        waiting = asyncio.timeout(None)
        self._waiting.add(waiting)
        try:
            async with waiting:
                yield
        except TimeoutError:
            raise Unavailable("server_error", "The model server is away.") from None
        finally:
            self._waiting.discard(waiting)

    def answered(self) -> None:
        """It began to answer."""
        self._circuit.answered()

    def failed(self, backend: Backend, error: Unavailable) -> None:
        """It is to blame for the failure of a turn that this adapter of it was asked for."""
        log.warning("server_failed_a_turn", server=self.name, why=error.message)
        if backend is self.backend and error.code != "rate_limit_exceeded":  # busy is not away
            self._failed(error)

    async def look(self) -> None:
        """See how it is, and meet it where it was away. Raises nothing."""
        try:
            await self._ask()
        except ModelError as error:
            self._failed(error)
        except TimeoutError:
            self._failed(_LATE)
        except Exception:
            log.exception("server_not_checked", server=self.name)
            self._failed(_DEFECT)
        else:
            self._well()
        finally:
            self.looked.set()

    async def stop(self) -> None:
        """Let go of it."""
        self._up.set(0)
        while self._lives:
            await self._lives.pop().backend.stop()

    async def _ask(self) -> None:
        if self.backend is None or (not self.up and self.server.here is None):
            async with asyncio.timeout(None if self.server.here else self._pace.meeting):
                await self._meet()
        else:
            async with asyncio.timeout(self._pace.check):
                await self.backend.check()
        await self._bury()

    async def _meet(self) -> None:
        """Find out what it is. One that was away may have become another: its adapter is made anew."""
        backend = await asyncio.to_thread(self._make, await identified(self.server))
        try:
            await backend.start()
        except BaseException:
            await backend.stop()
            raise
        self._lives.append(_Life(backend, _named(backend.models)))

    async def _bury(self) -> None:
        """Let go of former lives in which no turn is left."""
        ended = [life for life in self._lives[:-1] if not life.turns]
        self._lives = [life for life in self._lives if life not in ended]
        for life in ended:
            await life.backend.stop()

    def _well(self) -> None:
        was_up, self.failure = self.up, None
        self._circuit.well()
        if not was_up:
            self._up.set(1)
            log.info("server_up", server=self.name, kind=self._kind(), **self._manner())

    def _failed(self, error: ModelError) -> None:
        was_up, self.failure = self.up, error
        self._circuit.failed()
        if self.up:
            return
        self._up.set(0)
        while self._waiting:
            self._waiting.pop().reschedule(asyncio.get_running_loop().time())
        if was_up or not self.looked.is_set():
            log.warning("server_down", server=self.name, kind=self._kind(), why=error.message)

    def _manner(self) -> Mapping[str, str]:
        """Say how it is driven."""
        if (backend := self.backend) is None:
            return {}
        able = backend.capabilities
        return {
            "prompts": "messages" if able.tokens_in == "none" else "token ids",
            "answers": "parsed there" if able.parses else "parsed here",
        }

    def _kind(self) -> str:
        return self.backend.kind if self.backend else self.server.kind


def _named(listed: Iterable[object]) -> Mapping[str, str]:
    """Return the models of a list that clients can be told of: so many, by names that can be printed."""
    names = (name for name in listed if isinstance(name, str) and _is_name(name))
    return {name: name for name in islice(names, _MOST_MODELS)}


def _is_name(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_NAME and name.isprintable()
