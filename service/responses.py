"""Responses by their ids: what can be done with one without having asked for it.

All ids are looked up within a tenant; absent, foreign and deleted are the same `NotFound`.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

from service import ids
from service.compaction import Conversation
from service.conversation import DurableNode, Node
from service.errors import Conflict, ModelError, ModelFailed, Overloaded, Refusal
from service.paging import Page, identified, page_of
from service.session import Begin
from service.tenants import Tenants
from service.turns.following import Batches, not_found
from service.turns.output import add_usage
from service.turns.plan import Means, prompt_of
from service.turns.runner import Runner, State
from turnwire.v1 import items_pb2, responses_pb2
from turnwire.v1 import session_service_pb2 as rpc

_ENDS_WITHIN = 30.0
"""Seconds for a response to be kept once it was told to end."""
_LOOK = 0.25
"""Seconds between two looks at whether another replica has ended one."""
Forget = Callable[[str, str], None]
"""Makes all connections of a tenant let go of a response."""


class Responses:
    """Stored responses, and those that are being made and will be stored."""

    def __init__(
        self, state: State, runner: Runner, means: Means, tenants: Tenants, forget: Forget
    ) -> None:
        self._state = state
        self._runner = runner
        self._means = means
        self._tenants = tenants
        self._forget = forget

    async def get(self, tenant: str, response_id: str) -> responses_pb2.Response:
        """Return a response as it is now."""
        if run := self._state.live.get(tenant, response_id):
            return run.so_far
        found = await self._kept_or_elsewhere(tenant, response_id)
        return found.response if isinstance(found, DurableNode) else found

    async def delete(self, tenant: str, response_id: str) -> rpc.DeleteResponse:
        """Delete a response; one that is being made is cancelled first."""
        await self._end(tenant, response_id)
        if not await self._state.store.delete(tenant, response_id):
            raise not_found(response_id)
        self._forget(tenant, response_id)
        return rpc.DeleteResponse(response_id=response_id, object="response", deleted=True)

    async def cancel(self, tenant: str, response_id: str) -> responses_pb2.Response:
        """End a response that is being made; one that has ended is returned as it is."""
        await self._end(tenant, response_id)
        return await self.get(tenant, response_id)

    async def input_items(self, tenant: str, response_id: str, page: Page) -> items_pb2.ItemList:
        """Return a page of what a response was asked; what it continued is not part of that."""
        if run := self._state.live.get(tenant, response_id):
            items = run.plan.request.input
        else:
            node = await self._stored(tenant, response_id)
            items = node.segment.items[: node.inputs]

        def draw(prefix: str, index: int) -> str:
            return ids.input_item_id(prefix, response_id, index)

        return page_of(identified(items, draw), page)

    async def follow(self, tenant: str, response_id: str, starting_after: int | None) -> Batches:
        """Return the events after a number (all, if that is None), then those to come, in batches.

        See `Following.events`.
        """
        after = -1 if starting_after is None else starting_after
        return await self._state.following.events(tenant, response_id, after)

    async def compact(
        self, tenant: str, create: responses_pb2.CreateResponse
    ) -> rpc.CompactResponse:
        """Compact a conversation: what comes of it begins a new one. It counts as a turn.

        Raises `Refusal`.
        """
        if create.HasField("moderation"):
            message = "'moderation' is not supported here: nothing of a compaction is shown."
            raise Refusal("unsupported_parameter", message, "moderation")
        account = self._tenants.of(tenant)
        account.take(create.ByteSize())
        async with AsyncExitStack() as held:
            plan = await self._runner.plan(Begin(None, create), _Nobody(tenant), held)
        await self._runner.admit(plan)
        prompt = prompt_of(plan, self._means, ids.root_of(ids.response_id(None)))
        stall = self._means.limits.stall
        try:
            async with asyncio.timeout(stall):
                conversation = Conversation.whole(prompt)
                compacted = await self._means.compactor.compact(plan.backend, conversation)
        except TimeoutError:
            message = f"The conversation was not compacted within {stall:g} seconds."
            raise ModelFailed(ModelError("server_error", message)) from None
        except ModelError as error:
            raise ModelFailed(error) from error
        usage = responses_pb2.Usage()
        if compacted.finished:
            add_usage(usage, compacted.finished)
            account.spent(compacted.finished.cost)
        item = self._means.compactions.item(tenant, ids.draw("cmp"), compacted.items)
        return rpc.CompactResponse(
            id=ids.draw("resp"),
            object="response.compaction",
            created_at=int(time.time()),
            output=[item],
            usage=usage,
        )

    async def _stored(self, tenant: str, response_id: str) -> DurableNode:
        found = await self._kept_or_elsewhere(tenant, response_id)
        if isinstance(found, DurableNode):
            return found
        message = "The response is being made on another replica. Ask again when it has ended."
        raise Conflict("response_in_progress", message, "response_id")

    async def _kept_or_elsewhere(
        self, tenant: str, response_id: str
    ) -> DurableNode | responses_pb2.Response:
        """Return what is kept of a response, or else how it began on another replica."""
        if node := await self._state.store.retrieve(tenant, response_id):
            return node
        if elsewhere := await self._state.beacons.seen(tenant, response_id):
            return elsewhere
        if node := await self._state.store.retrieve(tenant, response_id):
            return node  # it was kept between the two looks
        raise not_found(response_id)

    async def _end(self, tenant: str, response_id: str) -> None:
        """End a response that is being made, here or on another replica, and wait until it is kept."""
        try:
            async with asyncio.timeout(_ENDS_WITHIN):
                if run := self._state.live.get(tenant, response_id):
                    run.stop("cancelled")
                    await run.ended()
                else:
                    await self._end_elsewhere(tenant, response_id)
        except TimeoutError:
            message = "The response is ending, but takes long to be stored. Try again later."
            raise Overloaded("server_is_overloaded", message) from None

    async def _end_elsewhere(self, tenant: str, response_id: str) -> None:
        """Ask for the end of what is not kept yet, and see to it."""
        while not await self._state.store.retrieve(tenant, response_id):
            if not await self._state.beacons.seen(tenant, response_id):
                return
            await self._state.beacons.end(tenant, response_id)
            await asyncio.sleep(_LOOK)


class _Nobody:
    """The caller of what is no turn: it holds nothing."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    def recall(self, response_id: str) -> Node | None:
        """Return nothing: only what is stored can be found."""
        del response_id
        return None
