"""Words for tests that talk to a chat server."""

import dataclasses
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from service.backends import (
    Backend,
    CallText,
    CustomCallBegins,
    Finished,
    FunctionCallBegins,
    Produced,
    Prompt,
    ScoredText,
    Text,
)
from service.conversation import Segment
from tests.service.backends.llama_cpp import conversing
from tests.stand_ins.chat_server import MODEL
from turnwire.v1 import items_pb2


class Turn(NamedTuple):
    prompt: Prompt
    batches: list[Sequence[Produced]]

    @property
    def produced(self) -> list[Produced]:
        return [part for batch in self.batches for part in batch]

    @property
    def finished(self) -> Finished:
        last = self.produced[-1]
        assert isinstance(last, Finished)
        return last

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.produced if isinstance(part, Text | ScoredText))

    @property
    def calls(self) -> list[tuple[str, str]]:
        """The calls, each with its arguments."""
        calls: list[tuple[str, str]] = []
        for part in self.produced:
            if isinstance(part, FunctionCallBegins | CustomCallBegins):
                calls.append((part.name, ""))
            elif isinstance(part, CallText):
                name, arguments = calls.pop()
                calls.append((name, arguments + part.text))
        return calls

    @property
    def items(self) -> list[items_pb2.Item]:
        """The turn's items, its answer last."""
        answer = [conversing.assistant(self.text)] if self.text else []
        calls = [
            conversing.call(name, arguments, call_id=f"call_{number}")
            for number, (name, arguments) in enumerate(self.calls)
        ]
        return [*self.prompt.input, *answer, *calls]

    @property
    def segment(self) -> Segment:
        return Segment(None, self.items, self.finished.rendered)


def prompt(*items: items_pb2.Item, **settings: Any) -> Prompt:
    return dataclasses.replace(conversing.prompt(*items, **settings), model=MODEL)


async def converse(backend: Backend, prompt: Prompt) -> Turn:
    async with aclosing(backend.generate(prompt)) as generated:
        batches = [batch async for batch in generated]
    assert all(batches)
    return Turn(prompt, batches)
