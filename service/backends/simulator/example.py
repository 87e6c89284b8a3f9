"""The smallest JSON that a JSON Schema accepts, as far as a simulated model needs it."""

import json
import math
from typing import Any

from service.errors import ModelError

_LONGEST_EXAMPLE = 100  # nor may a schema
_DEEPEST_EXAMPLE = 16


def example(schema_json: str) -> str:
    """Write the smallest JSON that a schema accepts. Patterns and formats are not looked at."""
    try:
        schema = json.loads(schema_json)
        example = _value(schema, schema, _DEEPEST_EXAMPLE)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ModelError("invalid_prompt", "The simulator cannot follow a JSON Schema.") from error
    return json.dumps({} if example is None else example)


def _value(schema: Any, root: Any, depth: int) -> Any:
    """Return the first value that comes to mind, for as deep as it may be."""
    if not depth:
        raise ValueError("too deep")
    match schema:
        case (
            {"const": value}
            | {"default": value}
            | {"enum": [value, *_]}
            | {"examples": [value, *_]}
        ):
            return value
        case {"$ref": str(reference)}:
            return _value(_referred(reference, root), root, depth - 1)
        case {"anyOf": [first, *_]} | {"oneOf": [first, *_]} | {"allOf": [first, *_]}:
            return _value(first, root, depth - 1)
        case {"type": [first, *_]}:
            return _value({**schema, "type": first}, root, depth - 1)
    return _typed_value(schema, root, depth)


def _typed_value(schema: Any, root: Any, depth: int) -> Any:
    match schema:
        case {"type": "object"} | {"properties": _}:
            properties = schema.get("properties", {})
            names = schema.get("required", ())
            return {name: _value(properties.get(name), root, depth - 1) for name in names}
        case {"type": "array"}:
            count = min(schema.get("minItems", 0), _most_elements(depth))
            return [_value(schema.get("items"), root, depth - 1) for _ in range(count)]
        case {"type": str(scalar)}:
            return _scalar(scalar, schema)
    return None


def _most_elements(depth: int) -> int:
    """Return how long an array may be: the deeper it lies, the shorter, for the product is bounded."""
    return max(1, _LONGEST_EXAMPLE >> 3 * (_DEEPEST_EXAMPLE - depth))


def _referred(reference: str, root: Any) -> Any:
    for name in reference.removeprefix("#").strip("/").split("/"):
        root = root[name.replace("~1", "/").replace("~0", "~")] if name else root
    return root


def _scalar(kind: str, schema: Any) -> str | float | bool | None:
    match kind:
        case "string":
            length = min(schema.get("minLength", 0), _LONGEST_EXAMPLE)
            return "text".ljust(length, ".")[: schema.get("maxLength")]
        case "integer":
            return _number(schema, schema.get("multipleOf", 1))
        case "number":
            return _number(schema, schema.get("multipleOf"))
        case "boolean":
            return False
    return None


def _number(schema: Any, step: float | None) -> float:
    value: float
    match schema:
        case {"minimum": low}:
            value = low
        case {"exclusiveMinimum": low}:
            value = math.floor(low) + 1
        case {"maximum": high}:
            value = min(0, math.floor(high))
        case {"exclusiveMaximum": high}:
            value = min(0, math.ceil(high) - 1)
        case _:
            value = 0
    return math.ceil(value / step) * step if step else value
