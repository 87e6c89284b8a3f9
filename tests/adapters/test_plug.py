"""The plug pulled at every point of a turn: a failure that is told, and an adapter that goes on."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from service.backends import Finished, Produced, Prompt
from service.backends.http import Deadlines
from service.errors import ModelError, Unavailable
from tests.adapters.front import WORDS, Front, Outcome, hear, outcome
from tests.adapters.wire import WAIT
from tests.service.backends.llama_cpp.conversing import user
from tests.stand_ins.cut import Way

HASTY = Deadlines(connect=1, slot=1, answer=0.4, read=0.4)
PLACES = 6
"""Into how many parts a turn is cut, beside its first and its last byte."""


@dataclass(frozen=True)
class Whole:
    """A turn that nobody disturbed, and what it takes on the wire."""

    prompt: Prompt
    outcome: Outcome
    bytes: dict[Way, int]

    def points(self, way: Way) -> Sequence[int]:
        """Return after how many bytes to cut."""
        size = self.bytes[way]
        return sorted({0, 1, *(size * part // PLACES for part in range(1, PLACES)), size - 1})


async def whole(adapter: Front) -> Whole:
    """Take the turn undisturbed, on a connection of its own."""
    prompt = adapter.chat().prompt(user(WORDS))
    await adapter.wire.rest()
    await well(adapter)
    await adapter.wire.rest()
    before = dict(adapter.wire.passed)
    undisturbed = await outcome(adapter.backend, prompt)
    assert undisturbed.finished
    passed = adapter.wire.passed
    return Whole(prompt, undisturbed, {way: passed[way] - before[way] for way in before})


async def well(adapter: Front) -> None:
    """Wait until the server is found well again: a connection that broke may be waited for."""
    async with asyncio.timeout(WAIT):
        while True:
            try:
                return await adapter.backend.check()
            except ModelError:
                await asyncio.sleep(0.01)


def expect(cut: Outcome, whole: Outcome) -> None:
    """A turn that was cut is the whole turn, or a part of it and a failure."""
    assert whole.text.startswith(cut.text)
    if cut.finished is None:
        assert cut.failure
        assert cut.batches or cut.failure.unavailable
        assert cut.failure.code == "server_error"
        return
    assert whole.finished
    assert cut.text == whole.text
    assert cut.finished.reason == whole.finished.reason
    assert cut.finished.input_tokens == whole.finished.input_tokens
    assert cut.finished.output_tokens == whole.finished.output_tokens


@pytest.mark.asks("wires")
@pytest.mark.parametrize("way", ["answer", "request"])
async def test_a_wire_may_break_anywhere(adapter: Front, way: Way) -> None:
    undisturbed = await whole(adapter)
    failures = 0
    for point in undisturbed.points(way):
        await adapter.wire.arm(point, way)
        cut = await outcome(adapter.backend, undisturbed.prompt)
        adapter.wire.heal()
        expect(cut, undisturbed.outcome)
        failures += cut.failure is not None
        await well(adapter)
    assert failures >= 3
    await adapter.until_working(0)
    expect(await outcome(adapter.backend, undisturbed.prompt), undisturbed.outcome)


@pytest.mark.asks("wires")
async def test_a_wire_that_falls_silent_is_given_up(adapter: Front) -> None:
    undisturbed = await whole(adapter)
    middle = undisturbed.bytes["answer"] // 2
    cases = [silent(adapter, undisturbed, after) for after in (0, middle)]
    for cut in await asyncio.gather(*cases):
        assert cut.failure
        assert cut.failure.code == "server_error"
        assert undisturbed.outcome.text.startswith(cut.text)
    await adapter.until_working(0)


async def silent(adapter: Front, undisturbed: Whole, after_bytes: int) -> Outcome:
    """Take a turn on which nothing more is heard after so many bytes."""
    async with adapter.another(HASTY) as other:
        await other.wire.arm(after_bytes, "answer", "silence")
        cut = await outcome(other.backend, undisturbed.prompt)
        other.wire.heal()
        return cut


@pytest.mark.asks("wires")
async def test_what_was_said_before_a_wire_broke_is_not_an_answer(adapter: Front) -> None:
    batches: list[Sequence[Produced]] = []
    turn = asyncio.ensure_future(hear(adapter.backend, adapter.endless(), batches))
    await adapter.until_working(1)
    async with asyncio.timeout(WAIT):
        while not batches:
            await asyncio.sleep(0)
    adapter.wire.pull()
    with pytest.raises(Unavailable):
        await turn
    pieces = [piece for batch in batches for piece in batch]
    assert not [piece for piece in pieces if isinstance(piece, Finished)]
    await adapter.until_working(0)
    await well(adapter)
    assert (await outcome(adapter.backend, adapter.chat().prompt(user(WORDS)))).finished
