"""Long reading leaves room for others, and does not read ahead."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing

from service.conversation import Segment
from service.paging import item_id_of
from service.reading import slices
from turnwire.v1 import items_pb2


def named(name: str) -> items_pb2.Item:
    return items_pb2.Item(other_json=f'{{"type":"note","id":"{name}"}}')


async def test_items_come_in_order_whatever_they_are_cut_into() -> None:
    parts = [[named(f"{part}.{number}") for number in range(part)] for part in (0, 1, 64, 200)]
    read = [
        item
        async for items in slices(Segment(None, part).items for part in parts)
        for item in items
    ]
    assert read == [item for part in parts for item in part]


async def test_nothing_is_parsed_before_it_is_asked_for() -> None:
    parsed: list[int] = []

    def parts() -> Iterator[Sequence[items_pb2.Item]]:
        for number in range(10):
            parsed.append(number)
            yield [named("a")]

    async with aclosing(slices(parts())) as reading:
        async for _ in reading:
            break
    assert parsed == [0]


async def test_others_have_their_turn_while_a_long_conversation_is_read() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    items = [named("a")] * 65_536
    async for some in slices([items]):
        assert all(map(item_id_of, some))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert turns > 1
