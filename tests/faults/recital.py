"""A simulated model that can prove what it was told."""

import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing

from service.backends import Finished, Produced, Prompt, Text
from service.backends.simulator.backend import Simulator
from tests.faults.ledger import RECITE
from turnwire.v1 import items_pb2

_MARK = re.compile(r"m\d+\Z")


class Reciting(Simulator):
    """Asked to recite, it says every mark that it was told, in order; else it simulates."""

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        if RECITE not in _texts(prompt.input[-1:]):
            async with aclosing(super().generate(prompt)) as batches:
                async for batch in batches:
                    yield batch
            return
        yield [Text(" ".join(_marks(prompt))), Finished("stop", 1, 0, 1)]


def _marks(prompt: Prompt) -> Iterator[str]:
    told = [item for segment in prompt.history for item in prompt.legible(segment.items)]
    return (text for text in _texts([*told, *prompt.input]) if _MARK.match(text))


def _texts(items: Sequence[items_pb2.Item]) -> Iterator[str]:
    return (item.message.content_text for item in items if item.message.role == "user")
