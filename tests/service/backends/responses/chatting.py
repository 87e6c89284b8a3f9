"""A conversation with a backend, kept as the engine keeps it: our ids, not the upstream's."""

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from service import ids
from service.backends import Backend, Finished, Produced, Prompt
from service.backends.responses.terms import Terms
from service.conversation import Segment
from service.turns.turn import Turn
from tests.service.backends.llama_cpp.conversing import prompt
from turnwire.v1 import items_pb2, responses_pb2


@dataclass
class Chat:
    backend: Backend
    model: str = "simulator"
    tenant: str = "tenant"
    conversation: str = field(default_factory=lambda: ids.draw("conv"))
    settings: dict[str, Any] = field(default_factory=dict)
    history: list[Segment] = field(default_factory=list)
    finished: Finished | None = None
    batches: list[Sequence[Produced]] = field(default_factory=list)

    def prompt(self, *items: items_pb2.Item, extra: str = "", **settings: Any) -> Prompt:
        asked = prompt(
            *items,
            history=tuple(self.history),
            conversation=self.conversation,
            tenant=self.tenant,
            extra=extra,
            **({"max_output_tokens": 1000} | self.settings | settings),
        )
        return replace(asked, model=self.model)

    async def say(self, *items: items_pb2.Item, **settings: Any) -> list[items_pb2.Item]:
        """Take a turn; return what the client is told of its output."""
        parent = self.history[-1] if self.history else None
        turn = Turn(responses_pb2.Response(id=ids.response_id(None)), None)
        self.batches = []
        asked = self.prompt(*items, **settings)
        async with aclosing(self.backend.generate(asked)) as batches:
            async for batch in batches:
                self.batches.append(batch)
                turn.produced(batch)
                assert turn.broken is None
        assert turn.finished
        self.finished = turn.finished
        output = list(turn.response.output)
        self.history.append(Segment(parent, [*items, *output], turn.finished.rendered))
        return output

    def fork(self) -> "Chat":
        return replace(self, history=list(self.history), batches=[])


def text(output: Sequence[items_pb2.Item]) -> str:
    parts = [part for item in output for part in item.message.content]
    return "".join(part.output_text.text for part in parts)


def named(terms: Terms) -> str:
    """Say which terms a test is for."""
    return f"{terms.transport}-{terms.state}"
