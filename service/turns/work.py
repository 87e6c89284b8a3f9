"""The model server's part of a turn: compact, screen, prepare, generate, as fast as its client reads."""

import asyncio
import dataclasses
import functools
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from service import ids
from service.backends import Finished, Produced, Prompt
from service.compaction import Conversation, estimate
from service.conversation import Renderings
from service.errors import ModelError
from service.moderation import moderation_json
from service.turns.plan import Caller, Means, Plan, prompt_of
from service.turns.silence import Silence
from service.turns.turn import Turn
from turnwire.delta import Event
from turnwire.v1 import items_pb2, responses_pb2

_SHARE = 0.001
"""Seconds: however fast a model is, after this long the other lanes have their turn."""
_MOST_PIECES = 1_000_000
"""About as many tokens: no model says as much on purpose."""
Deliver = Callable[[Sequence[Event]], None]


class Work:
    """What a model server does for one turn."""

    def __init__(
        self, plan: Plan, means: Means, turn: Turn, caller: Caller, deliver: Deliver
    ) -> None:
        self._plan = plan
        self._request = plan.request
        self._means = means
        self._turn = turn
        self._caller = caller
        self._deliver = deliver
        self._pieces = 0
        self._began = time.perf_counter()
        self._held: list[Produced] = []
        """Output that is shown only after its verdict."""
        self.input_withheld = plan.screening is not None and plan.screening.blocks_input
        """Whether the input did not pass its screening, or has not yet, and so never was said."""
        self.flagged: bool | None = None
        """Whether screening flagged anything of the turn; None while nobody has looked at all of it."""

    async def prepare(self, silence: Silence) -> Renderings:
        """Do for a warm-up all that can be done before generating."""
        del silence  # a warm-up says nothing
        return await self._screened(self._prepared)

    async def generate(self, silence: Silence) -> Renderings:
        """Generate. Raises `ModelError` if the model server fails."""
        return await self._screened(functools.partial(self._answer, silence))

    async def _screened(self, work: Callable[[], Awaitable[Renderings]]) -> Renderings:
        """Work while the input is screened, or after that where it may be withheld.

        Rendering it meanwhile would save a millisecond at most, next to a verdict that takes longer
        only where it comes from another server; and nothing of what is withheld is in any cache.
        """
        if (screening := self._plan.screening) is None:
            return await work()
        of_input = asyncio.ensure_future(screening.judge("input", self._request.legible))
        try:
            if self.input_withheld:
                self.input_withheld = not (await of_input).passes
            if self.input_withheld:
                self._turn.stop("content_filter")
            rendered: Renderings = {} if self.input_withheld else await work()
            await of_input
        finally:
            of_input.cancel()
        await self.conclude()
        return rendered

    async def conclude(self) -> None:
        """Have all that was said screened, also of a turn that was ended early; tell who asked."""
        if screening := self._plan.screening:
            of_input = await screening.judge("input", self._request.legible)
            of_output = await screening.judge("output", self._said())
            self.flagged = of_input.flagged or of_output.flagged
            if screening.told:
                told = moderation_json(of_input.said, of_output.said)
                self._turn.response.moderation_json = told

    async def _prepared(self) -> Renderings:
        return await self._plan.backend.prepare(self._prompt())

    async def _answer(self, silence: Silence) -> Renderings:
        prompt = await self._compacted(self._prompt())
        if self._request.only_compacts or self._turn.over:
            return {}
        await self._pass_on(prompt, silence)
        await self._release()
        if (finished := self._turn.finished) is None and not self._turn.over:
            raise ModelError("server_error", "The model server stopped in the middle.")
        if finished is None:
            return {}
        self._count(finished)
        return {} if self._turn.over else finished.rendered

    def _count(self, finished: Finished) -> None:
        """Count a run of the model. What it computed again shows that it lost its cache, or its way."""
        metrics = self._caller.metrics
        uncached = finished.input_tokens - finished.cached_tokens
        again = min(uncached, max(0, self._plan.expects_cached - finished.cached_tokens))
        metrics.cached_tokens.inc(finished.cached_tokens)
        metrics.recomputed_tokens.inc(again)
        metrics.computed_tokens.inc(uncached - again)
        metrics.output_tokens.inc(finished.output_tokens)
        self._caller.account.spent(finished.cost)

    async def _pass_on(self, prompt: Prompt, silence: Silence) -> None:
        """Pass on what the model produces, no faster than the client reads it."""
        turn, caller, screening = self._turn, self._caller, self._plan.screening
        holds = screening is not None and screening.blocks_output
        yielded = time.perf_counter()
        async with aclosing(self._plan.backend.generate(prompt)) as batches:
            async for batch in batches:
                if silence.unbroken:
                    caller.metrics.time_to_first_token.observe(time.perf_counter() - self._began)
                silence.broken()
                self._bound(batch)
                if holds:
                    self._held += batch
                else:
                    self._show(batch)
                if turn.over:
                    return
                await caller.ready()
                if time.perf_counter() - yielded > _SHARE:
                    await asyncio.sleep(0)
                    yielded = time.perf_counter()

    async def _release(self) -> None:
        """Show output that was held back, unless it is to be withheld."""
        if not self._held or self._plan.screening is None:
            return
        if not (await self._plan.screening.judge("output", self._said())).passes:
            self._turn.stop("content_filter")
        self._show(self._held)

    def _bound(self, batch: Sequence[Produced]) -> None:
        """Give a model up that does not come to an end."""
        self._pieces += len(batch)
        if self._pieces > _MOST_PIECES:
            message = f"The model said more than {_MOST_PIECES} pieces of text and did not stop."
            raise ModelError("server_error", message)

    def _show(self, batch: Sequence[Produced]) -> None:
        self._deliver(self._turn.produced(batch))
        if self._turn.broken:
            raise self._turn.broken

    def _said(self) -> Sequence[items_pb2.Item]:
        """Return the output, also what is held back."""
        if not self._held:
            return self._turn.response.output
        unheard = Turn(responses_pb2.Response(id=self._turn.response.id), None)
        unheard.produced(self._held)
        return unheard.response.output

    async def _compacted(self, prompt: Prompt) -> Prompt:
        """Compact the conversation first, where that is due; return what is left to be answered."""
        conversation = self._due(prompt)
        if conversation is None:
            return prompt
        self._deliver(self._turn.compacting())
        compacted = await self._means.compactor.compact(self._plan.backend, conversation)
        response = self._turn.response
        item_id = ids.item_id("cmp", response.id, len(response.output))
        item = self._means.compactions.item(prompt.tenant, item_id, compacted.items)
        self._deliver(self._turn.compacted(item))
        if compacted.finished:
            self._turn.spent(compacted.finished)
            self._caller.account.spent(compacted.finished.cost)
        return dataclasses.replace(prompt, history=[], input=compacted.items)

    def _due(self, prompt: Prompt) -> Conversation | None:
        """Return what is to be compacted, if anything is."""
        if self._request.only_compacts:
            return Conversation.whole(prompt)
        before = self._request.parent.tokens if prompt.history and self._request.parent else 0
        most = self._plan.compact_at
        if most is None or before + estimate(prompt.input) < most:
            return None
        conversation = Conversation.before_turn(prompt)
        return conversation if conversation.older else None

    def _prompt(self) -> Prompt:
        return prompt_of(self._plan, self._means, ids.root_of(self._turn.response.id))
