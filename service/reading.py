"""Reading what conversations hold without holding up the event loop."""

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence

from turnwire.v1 import items_pb2

_SHARE = 0.002
"""Seconds: after so long others have their turn."""
_ITEMS = 64
"""Items between two looks at the clock."""


async def slices(
    parsed: Iterable[Sequence[items_pb2.Item]],
) -> AsyncGenerator[Sequence[items_pb2.Item], None]:
    """Give the items of segments in order, some at a time.

    `parsed` is to parse a segment when it is asked for it, so that only one is held parsed. Whoever
    keeps an item keeps all that was parsed with it.
    """
    yielded = time.perf_counter()
    for items in parsed:
        for begin in range(0, len(items), _ITEMS):
            yield items[begin : begin + _ITEMS]
            if time.perf_counter() - yielded > _SHARE:
                await asyncio.sleep(0)
                yielded = time.perf_counter()
