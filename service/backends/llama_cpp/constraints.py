"""What binds what a model can write: llama.cpp's options for schemas, names and formats."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from service.backends.tools import schema_of
from service.errors import ModelError
from turnwire.v1 import responses_pb2

_COMPACT = {
    "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
}
"""Asks llguidance, where llama.cpp was built with it, for JSON without idle white space."""


def constraint(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that make a completion match a schema."""
    return {"json_schema": {**schema, **_COMPACT}}


def name_constraint(names: Iterable[str]) -> dict[str, Any]:
    """Return the options that make a completion one of these names."""
    literals = map(json.dumps, names)
    return {"grammar": f"root ::= {' | '.join(literals)}"}


def text_constraint(settings: responses_pb2.Settings) -> dict[str, Any]:
    """Return the options that give a text its format. Raises `ModelError` for unknown formats."""
    text_format = settings.text.format
    match text_format.WhichOneof("kind"):
        case "json_schema":
            return constraint(schema_of(text_format.json_schema.schema_json))
        case "json_object":
            return constraint({"type": "object"})
        case "other_json":
            raise ModelError("invalid_prompt", "This model cannot honour this type of text.format.")
        case _:
            return {}
