"""Responses by their ids: what can be done with one without having asked for it.

All ids are looked up within a tenant; absent, foreign and deleted are the same `NotFound`.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack

from service import ids
from service.compaction import Conversation
from service.conversation import DurableNode, Node
from service.errors import ModelError, ModelFailed, NotFound, Overloaded, RateLimited, Refusal
from service.paging import Page, identified, page_of
from service.session import Begin
from service.turns.output import add_usage
from service.turns.plan import Means, prompt_of
from service.turns.replay import replay
from service.turns.run import Run
from service.turns.runner import Runner, State
from turnwire.delta import Event, to_message
from turnwire.v1 import events_pb2, items_pb2, responses_pb2
from turnwire.v1 import session_service_pb2 as rpc

_TOLD_AT_ONCE = 256
"""Events of a response that are told again before others have their turn."""
_MOST_FOLLOWERS = 64
"""Of one response: every event is told to all of them."""
_ENDS_WITHIN = 30.0
"""Seconds for a response to be kept once it was told to end."""
Forget = Callable[[str, str], None]
"""Makes all connections of a tenant let go of a response."""


class Responses:
    """Stored responses, and those that are being made and will be stored."""

    def __init__(self, state: State, runner: Runner, means: Means, forget: Forget) -> None:
        self._state = state
        self._runner = runner
        self._means = means
        self._forget = forget

    async def get(self, tenant: str, response_id: str) -> responses_pb2.Response:
        """Return a response as it is now."""
        if run := self._state.live.get(tenant, response_id):
            so_far = responses_pb2.Response()
            so_far.CopyFrom(run.response)
            return so_far
        return (await self._stored(tenant, response_id)).response

    async def delete(self, tenant: str, response_id: str) -> rpc.DeleteResponse:
        """Delete a response; one that is being made is cancelled first."""
        if run := self._state.live.get(tenant, response_id):
            await self._end(run)
        if not await self._state.store.delete(tenant, response_id):
            raise _not_found(response_id)
        self._forget(tenant, response_id)
        return rpc.DeleteResponse(response_id=response_id, object="response", deleted=True)

    async def cancel(self, tenant: str, response_id: str) -> responses_pb2.Response:
        """End a response that is being made; one that has ended is returned as it is."""
        if run := self._state.live.get(tenant, response_id):
            await self._end(run)
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

    async def follow(
        self, tenant: str, response_id: str, starting_after: int | None
    ) -> AsyncGenerator[Sequence[Event], None]:
        """Return the events after a number (all, if that is None), then those to come, in batches.

        The batches end with the response's last event. They raise `SessionError` for one who reads
        too slowly, and can be closed at any time.
        """
        after = -1 if starting_after is None else starting_after
        if run := self._state.live.get(tenant, response_id):
            if run.followers >= _MOST_FOLLOWERS:
                raise RateLimited(f"{_MOST_FOLLOWERS} clients follow this response already.")
            return _followed(run, after)
        node = await self._stored(tenant, response_id)
        return _told(replay(node.response, node.trace, after))

    async def compact(
        self, tenant: str, create: responses_pb2.CreateResponse
    ) -> rpc.CompactResponse:
        """Compact a conversation: what comes of it begins a new one. Raises `Refusal`."""
        if create.HasField("moderation"):
            message = "'moderation' is not supported here: nothing of a compaction is shown."
            raise Refusal("unsupported_parameter", message, "moderation")
        async with AsyncExitStack() as held:
            plan = await self._runner.plan(Begin(None, create), _Nobody(tenant), held)
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
        item = self._means.compactions.item(tenant, ids.draw("cmp"), compacted.items)
        return rpc.CompactResponse(
            id=ids.draw("resp"),
            object="response.compaction",
            created_at=int(time.time()),
            output=[item],
            usage=usage,
        )

    async def _stored(self, tenant: str, response_id: str) -> DurableNode:
        if node := await self._state.store.retrieve(tenant, response_id):
            return node
        raise _not_found(response_id)

    async def _end(self, run: Run) -> None:
        run.stop("cancelled")
        try:
            async with asyncio.timeout(_ENDS_WITHIN):
                await run.ended()
        except TimeoutError:
            message = "The response is ending, but takes long to be stored. Try again later."
            raise Overloaded("server_is_overloaded", message) from None


class _Nobody:
    """The caller of what is no turn: it holds nothing."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant

    def recall(self, response_id: str) -> Node | None:
        """Return nothing: only what is stored can be found."""
        del response_id
        return None


async def _followed(run: Run, after: int) -> AsyncGenerator[Sequence[Event], None]:
    """Tell the events so far, then those to come."""
    so_far, follower = run.follow(after)
    try:
        async for batch in _told(so_far):
            yield batch
        while events := await follower.take():
            yield [_bare(event) for event in events if _is_news(event, after)]
    finally:
        follower.leave()


async def _told(
    events: Iterator[events_pb2.ServerEvent],
) -> AsyncGenerator[Sequence[Event], None]:
    """Tell events again, some at a time."""
    while batch := list(itertools.islice(events, _TOLD_AT_ONCE)):
        yield batch
        await asyncio.sleep(0)


def _is_news(event: Event, after: int) -> bool:
    """Whether an event comes after a number, or has none: then the client is to hear it now or never."""
    if isinstance(event, events_pb2.ServerEvent) and not event.HasField("sequence_number"):
        return True
    return event.sequence_number > after


def _bare(event: Event) -> Event:
    """Return an event without its lane: who follows a response has none."""
    if not (message := to_message(event)).HasField("stream_id"):
        return event
    bare = events_pb2.ServerEvent()
    bare.CopyFrom(message)
    bare.ClearField("stream_id")
    return bare


def _not_found(response_id: str) -> NotFound:
    return NotFound("not_found", f"Response with id '{response_id[:64]}' not found.", "response_id")
