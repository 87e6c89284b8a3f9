"""Words for tests that talk to a backend."""

import json
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
    Text,
)
from service.conversation import Segment
from turnwire.v1 import items_pb2, responses_pb2


class Turn(NamedTuple):
    produced: list[Produced]
    segment: Segment

    @property
    def finished(self) -> Finished:
        last = self.produced[-1]
        assert isinstance(last, Finished)
        return last

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.produced if isinstance(part, Text))

    @property
    def called(self) -> list[str]:
        begins = (FunctionCallBegins, CustomCallBegins)
        return [part.name for part in self.produced if isinstance(part, begins)]

    @property
    def arguments(self) -> str:
        return "".join(part.text for part in self.produced if isinstance(part, CallText))


def user(text: str) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(role="user", content_text=text))


def assistant(text: str) -> items_pb2.Item:
    part = items_pb2.ContentPart(output_text=items_pb2.OutputText(text=text))
    return items_pb2.Item(message=items_pb2.Message(role="assistant", content=[part]))


def call(name: str, arguments: str) -> items_pb2.Item:
    function_call = items_pb2.FunctionCall(call_id="call_1", name=name, arguments=arguments)
    return items_pb2.Item(function_call=function_call)


def call_output(text: str) -> items_pb2.Item:
    output = items_pb2.FunctionCallOutput(call_id="call_1", output_text=text)
    return items_pb2.Item(function_call_output=output)


def function(name: str, **properties: Any) -> items_pb2.Tool:
    schema = {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }
    tool = items_pb2.FunctionTool(name=name, parameters_json=json.dumps(schema))
    return items_pb2.Tool(function=tool)


def prompt(
    *items: items_pb2.Item,
    history: Sequence[Segment] = (),
    conversation: str = "conv",
    tenant: str = "tenant",
    extra: str = "",
    **settings: Any,
) -> Prompt:
    settings.setdefault("max_output_tokens", 12)
    return Prompt(history, items, responses_pb2.Settings(**settings), extra, conversation, tenant)


async def converse(backend: Backend, prompt: Prompt) -> Turn:
    produced: list[Produced] = []
    async with aclosing(backend.generate(prompt)) as batches:
        async for batch in batches:
            assert batch
            produced += batch
    last = produced[-1]
    assert isinstance(last, Finished)
    assert last.rendered is not None
    segment = Segment(None, list(prompt.input), {backend.dialect: last.rendered})
    return Turn(produced, segment)
