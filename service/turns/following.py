"""A response's events for whoever asks, wherever it is: made here, kept, or made by another replica."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Iterator, Sequence

from service.errors import NotFound, RateLimited
from service.store import Store
from service.turns.beacons import Beacons
from service.turns.live import Live
from service.turns.replay import replay
from service.turns.run import Run
from turnwire.delta import Event, to_message
from turnwire.v1 import events_pb2

_TOLD_AT_ONCE = 256
"""Events of a response that are told again before others have their turn."""
_MOST_FOLLOWERS = 64
"""Of one response: every event is told to all of them."""
_SOON, _SELDOM = 0.05, 1.0
"""Seconds between two looks at whether another replica has finished."""

Batches = AsyncGenerator[Sequence[Event], None]


class Following:
    """Finds responses and tells their events."""

    def __init__(self, live: Live, store: Store, beacons: Beacons) -> None:
        self._live = live
        self._store = store
        self._beacons = beacons

    async def events(self, tenant: str, response_id: str, after: int = -1) -> Batches:
        """Return the events after a number, then those to come, in batches.

        What another replica makes is told when it has ended. The batches end with the response's last
        event, if it has one. They raise `SessionError` for one who reads too slowly, and can be closed at
        any time. Raises `NotFound`, `RateLimited` and `StoreUnavailable`.
        """
        if found := await self._here(tenant, response_id, after):
            return found
        if await self._beacons.seen(tenant, response_id):
            return self._awaited(tenant, response_id, after)
        if found := await self._here(tenant, response_id, after):  # kept between the two looks
            return found
        raise not_found(response_id)

    async def _here(self, tenant: str, response_id: str, after: int) -> Batches | None:
        """Return the events of what is made here or kept."""
        if run := self._live.get(tenant, response_id):
            if run.followers >= _MOST_FOLLOWERS:
                raise RateLimited(f"{_MOST_FOLLOWERS} clients follow this response already.")
            return _followed(run, after)
        if node := await self._store.retrieve(tenant, response_id):
            return _told(replay(node.response, node.trace, after))
        return None

    async def _awaited(self, tenant: str, response_id: str, after: int) -> Batches:
        """Tell the events once another replica has kept them; tell nothing if it never does."""
        pause, there = _SOON, True
        while there:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _SELDOM)
            there = await self._beacons.seen(tenant, response_id) is not None
            found = await self._here(tenant, response_id, after)  # looked for last: none is missed
            if found:
                async for batch in found:
                    yield batch
                return


def not_found(response_id: str) -> NotFound:
    """Say that a response is absent, deleted or another tenant's."""
    return NotFound("not_found", f"Response with id '{response_id[:64]}' not found.", "response_id")


async def _followed(run: Run, after: int) -> Batches:
    """Tell the events so far, then those to come."""
    so_far, follower = run.follow(after)
    try:
        async for batch in _told(so_far):
            yield batch
        while events := await follower.take():
            if news := [_bare(event) for event in events if _is_news(event, after)]:
                yield news
    finally:
        follower.leave()


async def _told(events: Iterator[events_pb2.ServerEvent]) -> Batches:
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
