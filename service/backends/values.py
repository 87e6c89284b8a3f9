"""Values out of a model server's JSON: what is not of its type is refused before it goes any further."""

from typing import Any

import orjson

from service.errors import ModelError

_MOST = 2**53
"""What is counted is less: it goes into messages and metrics, which have a bound."""


def object_in(content: bytes) -> dict[str, Any]:
    """Read a JSON object. Raises `ModelError`."""
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ModelError("server_error", "The model server's answer is no JSON.") from error
    if not isinstance(found, dict):
        raise ModelError("server_error", "The model server's answer is no JSON object.")
    return found


def text_in(value: Any) -> str:
    """Return a text; nothing for null. Raises `TypeError`."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError
    return value


def count_in(value: Any) -> int:
    """Return a count, which is never below zero; zero for null. Raises `TypeError`."""
    if value is None:
        return 0
    if not isinstance(value, int):
        raise TypeError
    return min(max(0, value), _MOST)


def ids_in(value: Any) -> list[int]:
    """Return token ids; none for null. Raises `TypeError`."""
    if value is None:
        return []
    if not isinstance(value, list) or not all(type(one) is int and one >= 0 for one in value):
        raise TypeError
    return value
