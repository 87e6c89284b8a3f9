"""Words for tests that talk to a backend."""

import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple, TypeAlias

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
from turnwire.v1 import items_pb2, responses_pb2

Items: TypeAlias = Sequence[items_pb2.Item]


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
        return "".join(part.text for part in self.produced if isinstance(part, Text | ScoredText))

    @property
    def scores(self) -> list[items_pb2.Logprob]:
        texts = (part for part in self.produced if isinstance(part, ScoredText))
        return [score for text in texts for score in text.logprobs]

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


def call(name: str, arguments: str, **fields: str) -> items_pb2.Item:
    identity = fields.pop("call_id", "call_1")
    function_call = items_pb2.FunctionCall(
        call_id=identity, name=name, arguments=arguments, **fields
    )
    return items_pb2.Item(function_call=function_call)


def call_output(text: str, call_id: str = "call_1") -> items_pb2.Item:
    output = items_pb2.FunctionCallOutput(call_id=call_id, output_text=text)
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


def custom(name: str, **fields: Any) -> items_pb2.Tool:
    return items_pb2.Tool(custom=items_pb2.CustomTool(name=name, **fields))


def namespace(name: str, *tools: items_pb2.Tool, **fields: Any) -> items_pb2.Tool:
    return items_pb2.Tool(namespace=items_pb2.NamespaceTool(name=name, tools=tools, **fields))


def prompt(
    *items: items_pb2.Item,
    history: Sequence[Segment] = (),
    conversation: str = "conv",
    tenant: str = "tenant",
    legible: Callable[[Items], Items] = list,
    extra: str = "",
    **settings: Any,
) -> Prompt:
    settings.setdefault("max_output_tokens", 12)
    return Prompt(
        history=history,
        input=items,
        legible=legible,
        model="",
        settings=responses_pb2.Settings(**settings),
        tools=settings.get("tools", ()),
        logprobs="top_logprobs" in settings,
        extra_json=extra,
        conversation=conversation,
        tenant=tenant,
        store=bool(settings.get("store")),
    )


async def converse(backend: Backend, prompt: Prompt) -> Turn:
    produced: list[Produced] = []
    async with aclosing(backend.generate(prompt)) as batches:
        async for batch in batches:
            assert batch
            produced += batch
    last = produced[-1]
    assert isinstance(last, Finished)
    assert last.rendered
    segment = Segment(None, list(prompt.input), last.rendered)
    return Turn(produced, segment)
