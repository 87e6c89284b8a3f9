"""Values that a model wrote between tags, as JSON: what type they have is said by the tool's schema."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import jiter

_TYPES = {
    bool: "boolean",
    int: "number",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
    type(None): "null",
}
_SPELLINGS = {"True": "true", "False": "false", "None": "null"}
"""What templates written in Python make of values, and models learn from them."""


def as_json(text: str, schema: Any) -> str:
    """Return a value as JSON text: a string stays one, whatever it looks like."""
    types = set(_types(schema))
    if types == {"string"}:
        return _string(text)
    word = text.strip()
    word = _SPELLINGS.get(word, word)
    found = _type_of(word)
    if found is None or ("string" in types and found not in types):
        return _string(text)
    return word


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _type_of(word: str) -> str | None:
    """Return the type of a JSON text; None if it is none."""
    try:
        return _TYPES[type(jiter.from_json(word.encode(), allow_inf_nan=False))]
    except ValueError:
        return None


def _types(schema: Any) -> Iterator[str]:
    """Yield the types that a schema names, also in its alternatives; nothing if it does not say."""
    alternatives = [*_listed(schema, "anyOf"), *_listed(schema, "oneOf")]
    for choice in (schema, *alternatives):
        for name in _listed(choice, "type"):
            yield "number" if name == "integer" else str(name)
        for value in _listed(choice, "enum"):
            yield _TYPES.get(type(value), "object")


def _listed(schema: Any, key: str) -> list[Any]:
    listed = schema.get(key) if isinstance(schema, Mapping) else None
    if isinstance(listed, str):
        return [listed]
    return listed if isinstance(listed, list) else []
