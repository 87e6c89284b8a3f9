"""One field of a message: what its options say about its JSON form, and how its values are read."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import jiter
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from turnwire import strict_json
from turnwire.strict_json import KINDS, InvalidJson
from turnwire.v1 import json_form_pb2

Convert: TypeAlias = Callable[[Any, int], Any]
"""Turns a JSON value, at some depth of objects, into what a message's constructor takes."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the contract."""

    descriptor: FieldDescriptor
    json: json_form_pb2.JsonForm

    @classmethod
    def all_of(cls, message: Descriptor) -> "list[Field]":
        """Return a message's fields in the order they are declared."""
        return [cls(f, f.GetOptions().Extensions[json_form_pb2.json]) for f in message.fields]

    @property
    def name(self) -> str:
        """The field's name in the contract."""
        return self.descriptor.name

    @property
    def key(self) -> str:
        """The member's name in JSON."""
        return self.json.key or self.descriptor.name

    @property
    def is_message(self) -> bool:
        """Whether its values are messages, or lists or maps of them."""
        return self.descriptor.message_type is not None

    @property
    def message(self) -> Descriptor:
        """The type of those messages."""
        if self.descriptor.message_type is None:
            raise TypeError(f"{self.descriptor.full_name} is no message field")
        return self.descriptor.message_type

    @property
    def is_repeated(self) -> bool:
        """Whether it is a list; a map is none."""
        return self.descriptor.is_repeated and not self.is_map

    @property
    def is_map(self) -> bool:
        """Whether it is a map of strings."""
        return self.is_message and self.message.GetOptions().map_entry

    @property
    def oneof(self) -> str:
        """The name of the group of which at most one field is set, if it is in one."""
        oneof = self.descriptor.containing_oneof
        return oneof.name if oneof else ""

    @property
    def is_variant(self) -> bool:
        """Whether it is a variant of a union."""
        return bool(self.oneof) and not self.oneof.startswith("_")  # those stand for `optional`

    @property
    def is_nullable(self) -> bool:
        """Whether null is the same as not set."""
        return self.json.presence == json_form_pb2.JSON_PRESENCE_NULLABLE

    @property
    def is_required(self) -> bool:
        """Whether it must be there on the way in."""
        return self.json.presence == json_form_pb2.JSON_PRESENCE_REQUIRED

    @property
    def is_required_text(self) -> bool:
        """Whether it is a string that is missing when it is empty."""
        is_text = self.descriptor.type == FieldDescriptor.TYPE_STRING
        return self.is_required and is_text and not self.json.may_be_empty

    @property
    def is_always_written(self) -> bool:
        """Whether it is written when not set, other than as null."""
        return self.is_required or self.json.presence == json_form_pb2.JSON_PRESENCE_ALWAYS

    @property
    def is_lost_when_empty(self) -> bool:
        """Whether it cannot tell empty from absent although its JSON form does."""
        return self.descriptor.is_repeated and not self.is_always_written


def opaque_text(value: Any, _depth: int) -> str:
    """Keep any JSON value, as text."""
    return strict_json.dump(value).decode()


def string_map(value: Mapping[str, Any], _depth: int) -> Mapping[str, str]:
    """Take an object all of whose members are strings."""
    if all(type(member) is str for member in value.values()):
        return value
    raise InvalidJson("invalid_type", "Invalid type for '{param}': expected an object of strings.")


_MOST_ELEMENTS: Final = 65_536
"""Of one array: a large message of tiny items takes far longer to read than one of long texts."""


def check_length(values: Sequence[Any]) -> None:
    """Refuse a list that is too long."""
    if len(values) > _MOST_ELEMENTS:
        raise invalid_value(f"more than {_MOST_ELEMENTS} elements")


def array_of(element: Mapping[type, Convert]) -> Convert:
    """Take a list whose elements are taken by their types."""

    def convert(values: list[Any], depth: int) -> list[Any]:
        check_length(values)
        converted: list[Any] = []
        try:
            for value in values:
                if (convert_one := element.get(type(value))) is None:
                    raise invalid_type(element, value)
                converted.append(convert_one(value, depth))
        except InvalidJson as invalid:
            invalid.locate(f"[{len(converted)}]")
            raise
        return converted

    return convert


def _as_it_is(value: Any, _depth: int) -> Any:
    return value


def _integer(bits: int) -> Convert:
    bound = 1 << (bits - 1)

    def convert(value: int, _depth: int) -> int:
        if -bound <= value < bound:
            return value
        raise invalid_value(f"expected an integer of {bits} bits")

    return convert


def _double(value: jiter.LosslessFloat, _depth: int) -> float:
    if math.isinf(number := float(value)):
        raise invalid_value("expected a number of 64 bits")
    return number


def _double_of_integer(value: int, _depth: int) -> float:
    if abs(value) > 1 << 53:  # beyond that doubles skip integers
        raise invalid_value("expected a number of 64 bits")
    return float(value)


SCALARS: Final[Mapping[int, Mapping[type, Convert]]] = {
    FieldDescriptor.TYPE_STRING: {str: _as_it_is},
    FieldDescriptor.TYPE_BOOL: {bool: _as_it_is},
    FieldDescriptor.TYPE_INT32: {int: _integer(32)},
    FieldDescriptor.TYPE_INT64: {int: _integer(64)},
    FieldDescriptor.TYPE_DOUBLE: {jiter.LosslessFloat: _double, int: _double_of_integer},
}
"""How scalar fields take JSON values, by the type those have in Python."""


def invalid_type(expected: Iterable[type], value: Any) -> InvalidJson:
    """Say that a value has a type its member does not take."""
    taken = set(expected) - {type(None)}
    if jiter.LosslessFloat in taken:
        taken.discard(int)
    kinds = " or ".join(name for kind, name in KINDS.items() if kind in taken)
    return InvalidJson(
        "invalid_type", f"Invalid type for '{{param}}': expected {kinds}, got {KINDS[type(value)]}."
    )


def invalid_value(problem: str) -> InvalidJson:
    """Say that a value has the right type and is wrong nevertheless."""
    return InvalidJson("invalid_value", f"Invalid value for '{{param}}': {problem}.")


def missing() -> InvalidJson:
    """Say that a member is not there."""
    return InvalidJson("missing_required_parameter", "Missing required parameter: '{param}'.")
