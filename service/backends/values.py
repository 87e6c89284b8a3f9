"""Values out of a model server's JSON: what is not of its type is refused before it goes any further."""

from typing import Any

_MOST = 2**53
"""What is counted is less: it goes into messages and metrics, which have a bound."""


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
