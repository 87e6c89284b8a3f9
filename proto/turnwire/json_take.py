"""What becomes of one member of a JSON object, by the type of its value.

An object may hold the members of several messages: one's own, a variant's, those of what is inline.
A take puts a value among the arguments of the right one.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from turnwire.json_field import Convert, missing

Members: TypeAlias = dict[str, Any]
"""A JSON object, or the arguments of a message's constructor."""
Take: TypeAlias = Callable[[list[Members], Any, int], bool]
"""Takes a value at some depth; false if it is to be kept as it is, with what nobody knows."""


def store(slot: int, name: str, convert: Convert) -> Take:
    """Take a value into a field."""

    def take(parts: list[Members], value: Any, depth: int) -> bool:
        parts[slot][name] = convert(value, depth)
        return True

    return take


def store_unless_empty(slot: int, name: str, convert: Convert) -> Take:
    """Take a list or map into a field that cannot tell empty from absent."""
    take = store(slot, name, convert)
    return lambda parts, value, depth: bool(value) and take(parts, value, depth)


def ignore(_parts: list[Members], _value: Any, _depth: int) -> bool:
    """Take a value that says nothing."""
    return True


def keep(_parts: list[Members], _value: Any, _depth: int) -> bool:
    """Leave a value to what is kept as it is."""
    return False


def refuse_null(_parts: list[Members], _value: Any, _depth: int) -> bool:
    """Refuse null where something is required."""
    raise missing()
