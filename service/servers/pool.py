"""One model, however many servers have it: the backend that the engine sees.

A turn goes to one server. If that cannot be reached, is too busy or breaks off before it said anything,
another one is asked: each at most once, and no more than a few, since what breaks a server may be the
turn. After the first batch a failure is the turn's.

A turn at which all fail is held against none of them: otherwise whoever knows a request that servers
choke on could have all of them taken for down. Whether they are, they are asked all the time.
"""

import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, nullcontext
from typing import NamedTuple, TypeVar

from service.backends import Backend, Capabilities, Produced, Prompt
from service.conversation import Renderings
from service.errors import Unavailable
from service.metrics import Metrics
from service.servers.affinity import Affinity, key_of
from service.servers.choice import admitted, choose
from service.servers.member import Member

_ASKED = 3
"""Servers that a turn may be tried on."""
_REMEMBERED = 16_384
"""Conversations of which it is known where they are cached."""
T = TypeVar("T")


class _Begun(NamedTuple):
    """A turn that a server has begun to answer."""

    member: Member
    backend: Backend
    first: Sequence[Produced]
    batches: AsyncGenerator[Sequence[Produced], None]


class _Failure(NamedTuple):
    """A server that did not answer a turn."""

    member: Member
    backend: Backend | None
    error: Unavailable

    def blame(self) -> None:
        """Hold it against the server."""
        if self.backend:
            self.member.failed(self.backend, self.error)


class Pool:
    """The servers of one model. The fleet starts and stops them, for they may have other models too."""

    def __init__(self, model: str, metrics: Metrics) -> None:
        self.kind = "pool"
        self.models = (model,)
        self._members: dict[str, Member] = {}
        self._affinity = Affinity(_REMEMBERED)
        self._metrics = metrics

    @property
    def empty(self) -> bool:
        """Whether no server has the model any more."""
        return not self._members

    @property
    def up(self) -> bool:
        """Whether any of its servers is."""
        return any(member.up for member in self._members.values())

    @property
    def capabilities(self) -> Capabilities:
        """What the first of its servers can do that was met: the others may differ."""
        met = (member.backend for member in self._members.values() if member.backend)
        return next((backend.capabilities for backend in met), Capabilities())

    def join(self, member: Member) -> None:
        """Send turns to a server too, which has the model."""
        self._members[member.name] = member
        self._name_kind()

    def leave(self, member: Member) -> None:
        """Send no more turns to a server, if it had any."""
        self._members.pop(member.name, None)
        self._name_kind()

    async def start(self) -> None:
        """Nothing is to be done: the fleet meets the servers."""

    async def stop(self) -> None:
        """Nothing is to be done: the fleet lets go of the servers."""

    async def check(self) -> None:
        """Raise `ModelError` if none of the servers is up."""
        if not self.up:
            raise _none_up()

    async def prepare(self, prompt: Prompt) -> Renderings:
        """Have the server prepare that is to generate later."""

        async def prepared(member: Member) -> Renderings:
            with member.turn() as backend:
                return await backend.prepare(self._addressed(prompt, member))

        return await self._tried(prompt, prepared)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        """Have a server generate."""
        async with AsyncExitStack() as held:

            async def begun(member: Member) -> _Begun:
                async with AsyncExitStack() as attempt:
                    backend = attempt.enter_context(member.turn())
                    batches = backend.generate(self._addressed(prompt, member))
                    await attempt.enter_async_context(aclosing(batches))
                    async with self._patience(member):
                        first = await anext(batches, ())
                    held.push_async_exit(attempt.pop_all())
                    return _Begun(member, backend, first, batches)

            turn = await self._tried(prompt, begun)
            if turn.first:
                yield turn.first
            try:
                async for batch in turn.batches:
                    yield batch
            except Unavailable as error:
                turn.member.failed(turn.backend, error)
                raise

    def _patience(self, member: Member) -> AbstractAsyncContextManager[None]:
        """Wait for a server to begin to answer; where there are others, only for as long as it is up."""
        others = any(other.up for other in self._members.values() if other is not member)
        return member.patience() if others else nullcontext()

    async def _tried(self, prompt: Prompt, ask: Callable[[Member], Awaitable[T]]) -> T:
        """Ask one server after the other until one answers. Raises what the last one raised."""
        failures: list[_Failure] = []
        for member in self._order(prompt):
            if failures:
                self._metrics.server_retries.labels(_reason(failures[-1].error)).inc()
            backend = member.backend
            try:
                answer = await ask(member)
            except Unavailable as error:
                failures.append(_Failure(member, backend, error))
            else:
                self._answered(prompt, member, failures)
                return answer
        raise failures[-1].error if failures else _none_up()

    def _answered(self, prompt: Prompt, member: Member, failures: Sequence[_Failure]) -> None:
        """Remember who answered; that proves that those who did not were to blame, not the turn."""
        for failure in failures:
            failure.blame()
        member.answered()
        self._affinity.answered(prompt, member.name)

    def _order(self, prompt: Prompt) -> Iterator[Member]:
        """Yield whom to ask, each chosen when its turn comes."""
        left, last = dict(self._members), self._affinity.last(prompt)
        key = (
            prompt.conversation.encode() if last else key_of(prompt)
        )  # what is known is not read again
        for _ in range(_ASKED):
            candidates = admitted([member.candidate for member in left.values() if member.up])
            if not candidates:
                return
            choice = choose(candidates, key, last)
            if len(left) == len(self._members):
                self._metrics.affinity.labels(choice.why).inc()
            yield left.pop(choice.name)

    def _addressed(self, prompt: Prompt, member: Member) -> Prompt:
        """Call the model what the server calls it."""
        model = member.models.get(self.models[0], self.models[0])
        return dataclasses.replace(prompt, model=model)

    def _name_kind(self) -> None:
        """Be of the servers' kind, where they have one in common."""
        kinds = {_kind_of(member) for member in self._members.values()}
        self.kind = kinds.pop() if len(kinds) == 1 else "pool"


def _kind_of(member: Member) -> str:
    backend: Backend | None = member.backend
    return backend.kind if backend else member.server.kind


def _reason(failure: Unavailable) -> str:
    return "busy" if failure.code == "rate_limit_exceeded" else "unavailable"


def _none_up() -> Unavailable:
    return Unavailable("server_error", "No server of this model is up. Try again later.")
