"""Answers of many megabytes: made beside the event loop, and few of one tenant at a time.

Such an answer is whole in memory until its client has read it. So each tenant has some places for
them, and whoever finds none in time is told to come again; other tenants do not notice.
"""

import asyncio
from asyncio import Semaphore
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakValueDictionary

from google.protobuf.message import Message

from service.errors import RateLimited

_LARGE: Final = 256 * 1024  # bytes of a message that take about a millisecond to encode
_PLACES: Final = 4
_PATIENCE: Final = 10.0  # seconds to wait for a place


class LargeAnswers:
    """The places of all tenants. One semaphore lives for as long as somebody has a place, or waits."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._patience = patience
        self._places: WeakValueDictionary[str, Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def place(self, tenant: str) -> AsyncIterator[None]:
        """Have a place, for as long as the answer is in memory. Raises `RateLimited`."""
        leave = await self.take(tenant)
        try:
            yield
        finally:
            leave()

    async def take(self, tenant: str) -> Callable[[], None]:
        """Take a place, and return what gives it back. Raises `RateLimited`."""
        places = self._places.setdefault(tenant, Semaphore(_PLACES))
        try:
            async with asyncio.timeout(self._patience):
                await places.acquire()
        except TimeoutError:
            message = f"{_PLACES} large answers are not read yet. Read them first."
            raise RateLimited(message) from None
        return places.release


def is_large(message: Message) -> bool:
    """Tell whether a message is to be encoded in a place, and beside the event loop."""
    return message.ByteSize() > _LARGE


async def encoded(message: Message, encode: Callable[[Message], bytes]) -> bytes:
    """Encode a large message. Nothing else may change it meanwhile."""
    return await asyncio.to_thread(encode, message)
