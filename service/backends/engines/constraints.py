"""What binds an answer: the format of its text, or a call that must be made.

Engines are told the whole form of what they may sample, with a structural tag where there is more in it
than JSON. It counts from the first token: nobody has to know there whether the model is thinking.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from service.backends.engines import Constraint
from service.backends.tools import CallableTool, ToolChoice, schema_of
from service.errors import ModelError
from service.parsing.forcing import ForcedCall, forced_call
from service.parsing.free import thinking
from service.parsing.syntax import Syntax
from turnwire.v1 import responses_pb2


def constraint_of(
    settings: responses_pb2.Settings, choice: ToolChoice, syntax: Syntax, opened: str
) -> Constraint | None:
    """Return what a request binds its answer to; `opened` is the text that makes the model answer.

    Raises `ModelError` where it cannot be bound.
    """
    if choice.forced:
        return _call(list(choice.tools.values()), forced_call(syntax, opened))
    if (schema := _text_schema(settings)) is None:
        return None
    if thinking(syntax, opened):
        return _thought_then(schema, syntax)
    return Constraint("json_schema", orjson.dumps(schema).decode())


def _text_schema(settings: responses_pb2.Settings) -> dict[str, Any] | None:
    """Return what a text has to match. Raises `ModelError` for unknown formats."""
    text_format = settings.text.format
    match text_format.WhichOneof("kind"):
        case "json_schema":
            return schema_of(text_format.json_schema.schema_json)
        case "json_object":
            return {"type": "object"}
        case "other_json":
            raise ModelError("invalid_prompt", "This model cannot honour this type of text.format.")
        case _:
            return None


def _thought_then(schema: dict[str, Any], syntax: Syntax) -> Constraint:
    """Let a thought that has begun go on to its end, and bind what follows it."""
    thought = _tag("", {"type": "any_text"}, syntax.thought_closes)
    lines = {"type": "regex", "pattern": r"\n{0,2}"}
    return _structural_tag({"type": "sequence", "elements": [thought, lines, _json(schema)]})


def _call(tools: Sequence[CallableTool], form: ForcedCall) -> Constraint:
    """Bind an answer to one call, in the form in which the model writes calls."""
    calls = [
        _tag(
            f"{form.opens}{tool.joined}{form.between}",
            _json({"type": "object", **tool.parameters}),
            form.closes,
        )
        for tool in tools
    ]
    return _structural_tag(calls[0] if len(calls) == 1 else {"type": "or", "elements": calls})


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": schema}


def _tag(begin: str, content: dict[str, Any], end: str) -> dict[str, Any]:
    return {"type": "tag", "begin": begin, "content": content, "end": end}


def _structural_tag(form: dict[str, Any]) -> Constraint:
    tag = {"type": "structural_tag", "format": form}
    return Constraint("structural_tag", orjson.dumps(tag).decode())
