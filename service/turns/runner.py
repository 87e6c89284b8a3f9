"""The life of turns: what each is to do, who makes it, and what is kept of it.

Order matters: `response.in_progress` is said only once the parent is held, and `response.completed`
only once a response that is to be stored is durable.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass

import structlog

from service.audit import Journal
from service.compaction import threshold
from service.conversation import DurableNode, Node
from service.conversations import Conversations, Joined
from service.errors import Failed, ModelError, Overloaded, Refusal
from service.memory import Memory
from service.metrics import Metrics
from service.moderation import Moderator
from service.requests.references import References
from service.requests.request import (
    Request,
    check_size,
    check_supported,
    conversation_of,
    is_stored,
    new_items,
    understand,
)
from service.router import Router
from service.session import Begin
from service.store import Store, StoreUnavailable
from service.turns.account import entry_of
from service.turns.beacons import Beacons
from service.turns.claims import Claims
from service.turns.following import Following
from service.turns.live import Live
from service.turns.nodes import record_of, without_successors
from service.turns.outcome import Outcome
from service.turns.plan import Caller, Holder, Means, Plan
from service.turns.repeat import Repeat, Repeats
from service.turns.run import Run
from service.turns.sources import Sources
from turnwire.v1 import responses_pb2

log = structlog.get_logger(__name__)

_ATTEMPTS = 3
_HURRIED = 3.0  # seconds for a store that is away, or while a connection is being cut
_DEFECT = ModelError("server_error", "The server failed to process the response. Try again.")


@dataclass(frozen=True, slots=True)
class State:
    """What turns leave behind, and find."""

    store: Store
    conversations: Conversations
    live: Live
    beacons: Beacons
    claims: Claims
    journal: Journal | None
    memory: Memory

    @property
    def following(self) -> Following:
        """What tells a response's events, wherever it is."""
        return Following(self.live, self.store, self.beacons)


class Runner:
    """Runs turns."""

    def __init__(
        self, router: Router, state: State, means: Means, moderator: Moderator, metrics: Metrics
    ) -> None:
        self._router = router
        self._state = state
        self._means = means
        self._moderator = moderator
        self._sources = Sources(state.store, metrics)
        self._repeats = Repeats(state.following, state.store, state.claims, state.beacons, metrics)

    async def run(self, begin: Begin, caller: Caller) -> Outcome:
        """Run a turn to its end.

        Unless it is refused the client has been told all there is to tell. If the client is gone, this
        is cancelled.
        """
        async with AsyncExitStack() as held:
            try:
                prepared = await self._prepare(begin, caller, held)
                if isinstance(prepared, Repeat):
                    return await prepared.tell(caller)
            except Refusal as refusal:
                return Outcome("refused", refusal=refusal)
            except asyncio.CancelledError:
                if caller.interruption is None:
                    raise
                message = caller.interruption.message
                return Outcome("failed", refusal=Overloaded("server_error", message))
            except Exception:
                log.exception("turn_failed")
                return Outcome("failed", refusal=Failed())
            return await self._run(prepared, caller)

    async def _prepare(self, begin: Begin, caller: Caller, held: AsyncExitStack) -> Run | Repeat:
        """Find out whether a response is to be made, or was made for the same create. Raises `Refusal`."""
        if begin.resume:
            return await self._repeats.resumed(begin.resume, begin.stream_id, caller)
        if not begin.create.HasField("idempotency_key"):
            return await self._planned(begin, caller, held)
        for _ in range(_ATTEMPTS):
            claim = await self._state.claims.find(caller.tenant, begin.create)
            if repeat := await self._repeats.of(claim, begin.stream_id, caller):
                return repeat
            run = await self._planned(begin, caller, held)
            if await self._repeats.claimed(run, begin.create, claim):
                return run
            await held.aclose()
        raise Overloaded(
            "server_is_overloaded", "The same request is being made elsewhere. Try again."
        )

    async def _planned(self, begin: Begin, caller: Caller, held: AsyncExitStack) -> Run:
        plan = await self.plan(begin, caller, held)
        if plan.request.store:
            self._state.store.check()
        await caller.ready()
        return Run(plan, self._means, caller)

    async def plan(self, begin: Begin, caller: Holder, held: AsyncExitStack) -> Plan:
        """Decide what a turn is to do. Raises `Refusal`.

        A conversation that it is to be made in stays held until `held` is left.
        """
        settings = begin.create.settings
        check_supported(settings)
        backend = self._router.backend(settings.model)
        joined = await self._join(settings, caller, held)
        request = await self._understand(begin.create, caller, joined.tip if joined else None)
        if request.parent:
            held.enter_context(self._state.memory.using(request.parent))
        return Plan(
            tenant=caller.tenant,
            stream_id=begin.stream_id,
            request=request,
            backend=backend,
            screening=self._moderator.understand(request.moderation, caller.tenant),
            compact_at=threshold(settings),
            compared=await self._compared(settings, caller),
            joined=joined,
        )

    async def admit(self, plan: Plan) -> None:
        """Raise `Refusal` for input that is no turn's and that the tenant's policy withholds."""
        await self._moderator.admit(plan.tenant, plan.request.legible)

    async def _compared(self, settings: responses_pb2.Settings, caller: Holder) -> Node | None:
        """Return the response whose prompt the turn's is to be compared with, if there is one."""
        response_id = settings.prompt_cache_options.comparison_response_id
        return await self._sources.mentioned(response_id, caller) if response_id else None

    async def _join(
        self, settings: responses_pb2.Settings, caller: Holder, held: AsyncExitStack
    ) -> Joined | None:
        """Take the conversation that the response is to be made in, if it is to be in one."""
        if (conversation_id := conversation_of(settings)) is None:
            return None
        try:
            joining = self._state.conversations.join(caller.tenant, conversation_id)
            return await held.enter_async_context(joining)
        except Refusal as refusal:
            refusal.param = "conversation"  # as this request calls it
            raise

    async def _understand(
        self, create: responses_pb2.CreateResponse, caller: Holder, tip: Node | None
    ) -> Request:
        parent = tip
        if create.settings.HasField("previous_response_id"):
            parent = await self._sources.parent(create.settings.previous_response_id, caller)
        most_bytes = self._means.limits.conversation_bytes
        check_size(create, parent, most_bytes)

        async def find(response_id: str) -> Node | None:
            return await self._sources.mentioned(response_id, caller)

        kind = DurableNode if is_stored(create.settings, parent) else Node
        references = References(find, parent, kind, most_bytes)
        items = await references.resolve(new_items(create))
        return understand(
            create, items, self._means.compactions.legible(caller.tenant, items), parent
        )

    async def _run(self, run: Run, caller: Caller) -> Outcome:
        """Have a response made and kept, and tell its end whatever it is; then write it down."""
        try:
            return await self._listed(run, caller)
        finally:
            if journal := self._state.journal:
                journal.add(entry_of(run, caller))

    async def _listed(self, run: Run, caller: Caller) -> Outcome:
        """Let a response that will be stored be found while it is made."""
        if not run.plan.request.store:
            return await self._made(run, caller)
        try:
            with self._state.live.listed(caller.tenant, run):
                return await self._made(run, caller)
        finally:
            self._state.beacons.put_out(run)

    async def _made(self, run: Run, caller: Caller) -> Outcome:
        try:
            return await self._make(run, caller)
        except ModelError as error:
            return await self._fail(run, error)
        except StoreUnavailable as away:  # it has had all its time
            return await self._fail(run, ModelError(away.code, away.message), _HURRIED)
        except Refusal as refusal:  # what the model produced cannot be kept
            return await self._fail(run, ModelError(refusal.code, refusal.message))
        except asyncio.CancelledError:
            if caller.interruption is None:
                await self._abandon(run)
                raise
            return await self._fail(run, caller.interruption, _HURRIED)
        except Exception:
            log.exception("turn_failed")
            return await self._fail(run, _DEFECT)

    async def _make(self, run: Run, caller: Caller) -> Outcome:
        node = await run.make()
        cancelled = run.response.status == "cancelled"
        if isinstance(node, DurableNode):
            node = await self._state.store.put(node)
            if run.plan.joined and not cancelled:
                run.kept = node
                await run.plan.joined.advance(node)
        if not cancelled:
            caller.keep(node)
        run.end()  # at once: what is kept as ended is told as ended
        return (
            Outcome("cancelled") if cancelled else Outcome("ok", node, output=run.response.output)
        )

    async def _fail(self, run: Run, error: ModelError, within: float | None = None) -> Outcome:
        run.turn.failed(error)
        await self._record(run, within)
        run.end()
        return Outcome("failed")

    async def _abandon(self, run: Run) -> None:
        """The client is gone: to whoever else knows the response it was cancelled."""
        run.turn.stop("cancelled")
        run.turn.settle(int(time.time()))
        await self._record(run)
        run.end()

    async def _record(self, run: Run, within: float | None = None) -> None:
        """Keep what became of a response that failed, if it can be kept: it failed either way.

        A store may take `within` seconds; None is as long as it allows itself.
        """
        if not run.plan.request.store:
            return
        kept = (
            without_successors(run.kept, run.turn)
            if run.kept
            else record_of(run.plan, run.turn, run.said)
        )
        try:
            async with asyncio.timeout(within):
                await self._state.store.amend(kept)
        except Exception:
            log.exception("record_not_kept")
