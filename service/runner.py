"""The life of one turn: find its parent, let the model run, seal what came of it, keep it.

Order matters: `response.in_progress` is said only once the parent is held, and `response.completed`
only once a response that is to be stored is durable.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Literal, NamedTuple, Protocol

import structlog

from service import ids
from service.backends import Backend, Prompt
from service.conversation import DurableNode, Node, Rendered, Segment
from service.errors import Failed, ModelError, Refusal
from service.limits import TurnLimits
from service.metrics import Metrics, TransportMetrics
from service.request import Request, check_size, pending_calls, understand
from service.router import Router
from service.session import Begin
from service.silence import Silence
from service.store import Store
from service.turn import Turn
from turnwire.delta import Event
from turnwire.v1 import responses_pb2

log = structlog.get_logger(__name__)

_DEFECT = ModelError("server_error", "The server failed to process the response. Try again.")


class Outcome(NamedTuple):
    """How a turn ended."""

    word: Literal["ok", "failed", "refused"]
    node: Node | None = None
    """What can be continued, if anything."""


class Caller(Protocol):
    """The connection a turn belongs to, as the turn sees it."""

    tenant: str
    metrics: TransportMetrics
    interruption: ModelError | None
    """Why the turn is being cut short, where its client should still be told."""

    def recall(self, response_id: str) -> Node | None:
        """Return a node that the connection itself holds."""

    def keep(self, node: Node) -> None:
        """Hold a node for the connection's next turns."""

    def deliver(self, events: Sequence[Event]) -> None:
        """Send events to the client."""

    def refuse(self, refusal: Refusal, stream_id: str | None) -> None:
        """Tell the client that its request is refused."""

    @property
    def behind(self) -> bool:
        """Whether the client has so much left to read that nothing more should be produced."""

    async def ready(self) -> None:
        """Return when the client is no longer behind."""


class Runner:
    """Runs turns."""

    def __init__(self, router: Router, store: Store, metrics: Metrics, limits: TurnLimits) -> None:
        self._router = router
        self._store = store
        self._hydrations = metrics.hydrations
        self._limits = limits

    async def run(self, begin: Begin, caller: Caller) -> Outcome:
        """Run a turn to its end.

        The client has been told all there is to tell, unless it is gone: then this is cancelled.
        """
        try:
            request = await self._understand(begin.create, caller)
            backend = self._router.backend(request.settings.model)
        except Refusal as refusal:
            caller.refuse(refusal, begin.stream_id)
            return Outcome("refused")
        except Exception:
            log.exception("turn_failed")
            caller.refuse(Failed(), begin.stream_id)
            return Outcome("failed")
        return await self._run(begin, request, backend, caller)

    async def _run(
        self, begin: Begin, request: Request, backend: Backend, caller: Caller
    ) -> Outcome:
        turn = Turn(_response(request), begin.stream_id, ids.item_id)
        try:
            run = _Run(request, backend, turn, caller, self._limits)
            return Outcome("ok", await run.run(self._store))
        except ModelError as error:
            caller.deliver(turn.fail(error))
        except Refusal as refusal:  # what the model produced cannot be kept
            caller.deliver(turn.fail(ModelError(refusal.code, refusal.message)))
        except asyncio.CancelledError:
            if caller.interruption is None:
                raise
            caller.deliver(turn.fail(caller.interruption))
        except Exception:
            log.exception("turn_failed")
            caller.deliver(turn.fail(_DEFECT))
        return Outcome("failed")

    async def _understand(self, create: responses_pb2.CreateResponse, caller: Caller) -> Request:
        parent = None
        if create.settings.HasField("previous_response_id"):
            parent = await self._hydrate(create.settings.previous_response_id, caller)
        check_size(create, parent, self._limits.conversation_bytes)
        return understand(create, parent)

    async def _hydrate(self, response_id: str, caller: Caller) -> Node:
        """Find the response to continue: in the connection, then in the store."""
        if node := caller.recall(response_id):
            self._hydrations.labels("connection", "hit").inc()
            return node
        if node := await self._store.get(caller.tenant, response_id):
            self._hydrations.labels("store", "hit").inc()
            return node
        self._hydrations.labels("none", "miss").inc()
        raise Refusal(
            "previous_response_not_found",
            f"Previous response with id '{response_id[:64]}' not found.",
            "previous_response_id",
        )


class _Run:
    """One turn under way."""

    def __init__(
        self, request: Request, backend: Backend, turn: Turn, caller: Caller, limits: TurnLimits
    ) -> None:
        self._request = request
        self._backend = backend
        self._turn = turn
        self._caller = caller
        self._limits = limits
        self._began = time.perf_counter()

    async def run(self, store: Store) -> Node:
        """Run it. Raises `ModelError` if the model server fails."""
        await self._caller.ready()
        if self._request.generate:
            self._caller.deliver(self._turn.begin())
            rendered = await self._watched(self._generate)
        else:
            self._caller.deliver(self._turn.created())
            rendered = await self._watched(self._prepare)
        self._turn.settle(int(time.time()))
        node = self._seal(rendered)
        if isinstance(node, DurableNode):
            await store.put(node)
        self._caller.keep(node)
        await self._caller.ready()
        self._caller.deliver(self._turn.ended())
        return node

    async def _watched(
        self, work: Callable[[Silence], Awaitable[Rendered | None]]
    ) -> Rendered | None:
        """Have the model server work for as long as it shows signs of life."""
        try:
            async with asyncio.timeout(None) as deadline:
                with Silence(self._turn, self._caller, self._limits, deadline) as silence:
                    return await work(silence)
        except TimeoutError:
            message = f"The model server said nothing for {self._limits.stall:g} seconds."
            raise ModelError("server_error", message) from None

    async def _prepare(self, silence: Silence) -> Rendered | None:
        del silence  # a warm-up says nothing
        return await self._backend.prepare(self._prompt())

    async def _generate(self, silence: Silence) -> Rendered | None:
        await self._pass_on(silence)
        if (finished := self._turn.finished) is None:
            raise ModelError("server_error", "The model server stopped in the middle.")
        metrics = self._caller.metrics
        metrics.cached_tokens.inc(finished.cached_tokens)
        metrics.computed_tokens.inc(finished.input_tokens - finished.cached_tokens)
        metrics.output_tokens.inc(finished.output_tokens)
        return finished.rendered

    async def _pass_on(self, silence: Silence) -> None:
        """Pass on what the model produces, no faster than the client reads it."""
        turn, caller = self._turn, self._caller
        async with aclosing(self._backend.generate(self._prompt())) as batches:
            async for batch in batches:
                if silence.unbroken:
                    elapsed = time.perf_counter() - self._began
                    caller.metrics.time_to_first_token.observe(elapsed)
                silence.broken()
                caller.deliver(turn.produced(batch))
                await caller.ready()

    def _prompt(self) -> Prompt:
        request = self._request
        return Prompt(
            history=request.parent.segment.path() if request.parent else [],
            input=request.input,
            settings=request.settings,
            extra_json=request.extra_json,
            conversation=ids.root_of(self._turn.response.id),
            tenant=self._caller.tenant,
        )

    def _seal(self, rendered: Rendered | None) -> Node:
        request, response = self._request, self._turn.response
        parent = request.parent
        renderings = {self._backend.dialect: rendered} if rendered else None
        items = [*request.input, *response.output]
        segment = Segment(parent.segment if parent else None, items, renderings)
        pending = pending_calls(request.pending_calls, response.output)
        if request.store:
            return DurableNode(
                tenant=self._caller.tenant,
                id=response.id,
                parent_id=parent.id if parent else None,
                segment=segment,
                pending_calls=pending,
                response_data=response.SerializeToString(),
            )
        return Node(
            tenant=self._caller.tenant,
            id=response.id,
            parent_id=parent.id if parent else None,
            segment=segment,
            pending_calls=pending,
        )


def _response(request: Request) -> responses_pb2.Response:
    return responses_pb2.Response(
        id=ids.response_id(request.parent.id if request.parent else None),
        object="response",
        created_at=int(time.time()),
        settings=request.echo(),
    )
