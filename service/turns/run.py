"""One turn under way: what it tells its client, and how it can be ended early."""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from service import ids
from service.conversation import DurableNode, Node, Renderings
from service.errors import ModelError
from service.requests import diagnostics
from service.requests.request import Request
from service.turns.live import Follower
from service.turns.nodes import node_of
from service.turns.plan import Caller, Means, Plan
from service.turns.silence import Silence
from service.turns.turn import Stop, Turn
from service.turns.work import Work
from turnwire.delta import Event
from turnwire.v1 import events_pb2, items_pb2, responses_pb2


class Run:
    """One turn under way. The client that asked for it, and whoever follows it, is told everything."""

    def __init__(self, plan: Plan, means: Means, caller: Caller) -> None:
        self.plan = plan
        self.began_at = time.monotonic()
        sealing = functools.partial(_with_sealed_reasoning, plan, means)
        self.turn = Turn(_response(plan.request), plan.stream_id, sealing)
        self._caller = caller
        self._limits = means.limits
        self._legible = functools.partial(means.compactions.legible, plan.tenant)
        self._means = means
        self._withheld = plan.screening is not None and plan.screening.blocks_input
        self.flagged: bool | None = None
        """Whether screening flagged anything of the turn, where it was screened."""
        self._working: asyncio.Task[object] | None = None
        """The task that waits for the model server, while it does: only then it can be ended early."""
        self._stop: Stop | None = None
        self.kept: DurableNode | None = None
        """What a conversation may stand on from now on, whatever becomes of the response."""
        self._followers: list[Follower] = []
        self._ended = False
        self._over = asyncio.Event()

    @property
    def response(self) -> responses_pb2.Response:
        """The response as it is now."""
        return self.turn.response

    @property
    def so_far(self) -> responses_pb2.Response:
        """The response as it may be shown: it has not ended before it is kept."""
        shown = responses_pb2.Response()
        shown.CopyFrom(self.response)
        if not self._ended:
            shown.status = "in_progress"
            for name in ("completed_at", "incomplete_details", "error"):
                shown.ClearField(name)
        return shown

    @property
    def as_begun(self) -> bytes:
        """The response, serialised, without what it says."""
        begun = self.so_far
        begun.ClearField("output")
        return begun.SerializeToString()

    @property
    def over_and_kept(self) -> bool:
        """Whether the response has ended, is kept, and all is said."""
        return self._over.is_set()

    @property
    def said(self) -> Sequence[items_pb2.Item] | None:
        """What the turn adds as its input; None if that is withheld from the conversation."""
        return None if self._withheld else self.plan.request.input

    @property
    def followers(self) -> int:
        """How many follow the response without having asked for it."""
        return len(self._followers)

    @property
    def behind(self) -> bool:
        """Whether the client has so much left to read that it keeps its model waiting."""
        return self._caller.behind

    def deliver(self, events: Sequence[Event]) -> None:
        """Send events to the client, and to whoever follows the response."""
        self._caller.deliver(events)
        for follower in self._followers:
            follower.deliver(events)

    def tell(self, event: events_pb2.ServerEvent) -> None:
        """Send an event that is not part of the output, under the response's next number.

        What follows the response's end is for the client alone: its response has no more events.
        """
        numbered = self.turn.aside(event)
        if self._ended:
            self._caller.deliver([numbered])
        else:
            self.deliver([numbered])

    def keepalive(self) -> None:
        """Say that the turn still runs."""
        self.deliver([self.turn.keepalive()])

    def steer(self) -> None:
        """End the turn at its next safe boundary."""
        self.turn.steer()
        if self.turn.over:
            self.stop("steered")

    def stop(self, reason: Stop) -> None:
        """End the turn now, unless it is ending anyway."""
        if self._working and self._stop is None:
            self._stop = reason
            self._working.cancel()

    def follow(self, after: int = -1) -> tuple[Iterator[events_pb2.ServerEvent], Follower]:
        """Return the events so far, after a number, and someone who is told of those to come."""
        follower = Follower(self._followers.remove)
        self._followers.append(follower)
        if self._over.is_set():
            follower.end()
        return self.turn.told(after), follower

    def end(self) -> None:
        """Say how the response ended. It is settled, and kept as far as it is kept."""
        self._ended = True
        self.deliver(self.turn.ended())

    def over(self) -> None:
        """The response is kept, and all is said."""
        self._over.set()
        for follower in self._followers:
            follower.end()

    async def ended(self) -> None:
        """Return when the response is kept and all is said."""
        await self._over.wait()

    async def make(self) -> Node:
        """Have the response made; return what is left of it. Raises `ModelError` if that fails."""
        self._caller.began(self.plan.stream_id, self)
        self.deliver(self.turn.begin() if self.plan.request.generate else self.turn.created())
        await self._caller.ready()  # these events show all settings, and are as long as they are
        # It knows this run: were it kept, neither would go before the garbage collector comes.
        work = Work(self.plan, self._means, self.turn, self._caller, self.deliver)
        try:
            rendered = await self._until_stopped(work)
        finally:
            self._withheld, self.flagged = work.input_withheld, work.flagged
        self._diagnose()
        self.turn.settle(int(time.time()))
        return node_of(self.plan, self.turn, self.said, rendered)

    async def _until_stopped(self, work: Work) -> Renderings:
        self._working = asyncio.current_task()
        try:
            return await self._watched(
                work.generate if self.plan.request.generate else work.prepare
            )
        except asyncio.CancelledError:
            if self._stop is None or (self._working and self._working.uncancel()):
                raise
            self.deliver(self.turn.stop(self._stop))
            await work.conclude()
            return {}
        finally:
            self._working = None
            self._caller.settling(self.plan.stream_id)

    async def _watched(self, work: Callable[[Silence], Awaitable[Renderings]]) -> Renderings:
        """Have the model server work for as long as it shows signs of life."""
        try:
            async with asyncio.timeout(None) as deadline:
                with Silence(self, self._limits, deadline) as silence:
                    return await work(silence)
        except TimeoutError:
            message = f"The model server said nothing for {self._limits.stall:g} seconds."
            raise ModelError("server_error", message) from None

    def _diagnose(self) -> None:
        """Say how the prompt compares with another one, where that was asked for."""
        plan, request = self.plan, self.plan.request
        if not request.settings.prompt_cache_options.comparison_response_id:
            return
        self.response.prompt_cache_diagnostics_json = diagnostics.diagnose(
            plan.compared,
            request.parent,
            request.input,
            plan.fingerprint,
            self._legible,
        )


def _with_sealed_reasoning(plan: Plan, means: Means, item: items_pb2.Item) -> items_pb2.Item:
    """Give a finished item what a client can send back in place of its content, if it asked for it."""
    if item.HasField("reasoning") and "reasoning.encrypted_content" in plan.request.include:
        return means.compactions.sealed_reasoning(plan.tenant, item)
    return item


def _response(request: Request) -> responses_pb2.Response:
    return responses_pb2.Response(
        id=ids.response_id(request.parent.tree if request.parent else None),
        object="response",
        created_at=int(time.time()),
        settings=request.echo(),
    )
