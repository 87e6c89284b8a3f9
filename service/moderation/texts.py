"""What of an item is text that a classifier can read.

Images and files are not, nor is what was sealed: pass items in their legible form.
"""

from collections.abc import Iterable, Iterator

import orjson

from turnwire import json_codec
from turnwire.v1 import items_pb2

_JSON = 65_536
"""Characters of JSON that is also read without its escapes. Longer JSON is read only as it stands."""


def text_of(item: items_pb2.Item) -> str:
    """Return all texts of an item, each on lines of its own."""
    return "\n".join(filter(None, _texts(item)))


def _texts(item: items_pb2.Item) -> Iterator[str]:
    match item.WhichOneof("kind"):
        case "message":
            yield item.message.content_text
            yield from _parts(item.message.content)
        case "reasoning":
            yield from _parts(item.reasoning.summary)
            yield from _parts(item.reasoning.content)
        case "function_call":
            yield item.function_call.name
            yield from _json(item.function_call.arguments)
        case "custom_tool_call":
            yield item.custom_tool_call.name
            yield item.custom_tool_call.input
        case "function_call_output":
            yield from _json(item.function_call_output.output_text)
            yield from _parts(item.function_call_output.output)
        case "custom_tool_call_output":
            yield from _json(item.custom_tool_call_output.output_text)
            yield from _parts(item.custom_tool_call_output.output)
        case "additional_tools":
            for tool in item.additional_tools.tools:
                yield from _json(json_codec.encode(tool).decode())
        case "other_json":
            yield from _json(item.other_json)
        case _:
            pass


def _parts(parts: Iterable[items_pb2.ContentPart]) -> Iterator[str]:
    for part in parts:
        match part.WhichOneof("kind"):
            case "input_text":
                yield part.input_text.text
            case "output_text":
                yield part.output_text.text
            case "refusal":
                yield part.refusal.refusal
            case "reasoning_text":
                yield part.reasoning_text.text
            case "summary_text":
                yield part.summary_text.text
            case "other_json":
                yield from _json(part.other_json)
            case _:
                pass


def _json(text: str) -> Iterator[str]:
    """Yield what may be JSON as it stands, then what its escapes hide: words after a line's end.

    Many clients write everything beyond ASCII as escapes, which no classifier is trained on.
    """
    yield text
    if "\\" in text and len(text) <= _JSON:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return
        yield from _strings(value)


def _strings(value: object) -> Iterator[str]:
    """Yield all strings in a JSON value, however deep: hence no recursion."""
    values = [value]
    while values:
        match values.pop():
            case str() as text:
                yield text
            case list() as elements:
                values.extend(reversed(elements))
            case dict() as members:
                values.extend(part for pair in reversed(members.items()) for part in pair[::-1])
