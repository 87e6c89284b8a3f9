"""Conversations with a backend, turn after turn, held as the engine holds them."""

import time
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from service.backends import Backend, Finished, Produced, Prompt
from service.conversation import Segment
from tests.service.backends.llama_cpp.conversing import Turn, assistant, call
from tests.vllm import lab
from turnwire.v1 import items_pb2, responses_pb2

SYSTEM = "You help people who travel. " * 40
"""More than one block of vLLM's cache."""

WEATHER = items_pb2.Tool(
    function=items_pb2.FunctionTool(
        name="get_weather",
        description="The weather in a city",
        parameters_json=(
            '{"type":"object","properties":{"city":{"type":"string","enum":["Tokyo","Oslo"]}},'
            '"required":["city"],"additionalProperties":false}'
        ),
        strict=True,  # only then does vLLM hold a model to the schema
    )
)
"""A tool whose arguments even a small model comes to the end of."""


@dataclass
class Conversation:
    """One conversation with one backend."""

    backend: Backend
    tenant: str = "tenant"
    settings: dict[str, Any] = field(default_factory=dict)
    """For every turn."""
    segment: Segment | None = None
    waited: float = 0.0
    """Seconds until the last turn began to answer."""

    def prompt(self, *items: items_pb2.Item, **settings: Any) -> Prompt:
        """Return what comes next."""
        chosen = {"temperature": 0.0, "max_output_tokens": 8, **self.settings, **settings}
        return Prompt(
            history=self.segment.path() if self.segment else [],
            input=items,
            legible=list,
            model=lab.MODEL,
            settings=responses_pb2.Settings(**chosen),
            tools=chosen.get("tools", ()),
            logprobs="top_logprobs" in chosen,
            extra_json="",
            conversation="conversation",
            tenant=self.tenant,
        )

    async def say(self, *items: items_pb2.Item, **settings: Any) -> Turn:
        """Have a turn, and make history of it."""
        prompt = self.prompt(*items, **settings)
        produced: list[Produced] = []
        began = time.perf_counter()
        async with aclosing(self.backend.generate(prompt)) as batches:
            async for batch in batches:
                assert batch
                self.waited = self.waited if produced else time.perf_counter() - began
                produced += batch
        last = produced[-1]
        assert isinstance(last, Finished)
        said = _said(Turn(produced, Segment(None, items)))
        self.segment = Segment(self.segment, [*items, *said], last.rendered)
        return Turn(produced, self.segment)


def _said(turn: Turn) -> list[items_pb2.Item]:
    """Return what the model said as items."""
    said = [assistant(turn.text)] if turn.text else []
    return [*said, *(call(name, turn.arguments) for name in turn.called)]
