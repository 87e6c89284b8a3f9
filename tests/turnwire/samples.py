"""Sample JSON for the SDK's types: every member, every kind of value a member may have."""

import typing
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Any, Literal, TypeAlias

import pydantic

Json: TypeAlias = Any
"""Anything JSON can say."""

_PLAIN: dict[Any, list[Json]] = {
    str: ["some text"],
    int: [7],
    float: [3],  # whole: the SDK calls times floats that the protocol sends as integers
    bool: [True, False],
    object: [{"any": [1.5, None]}, "anything"],
    NoneType: [None],
}


def members_of(union: Any) -> list[Any]:
    """Return the types of a union, and of the unions in it."""
    origin, arguments = typing.get_origin(union), typing.get_args(union)
    if origin is typing.Annotated:
        return members_of(arguments[0])
    if origin in (typing.Union, UnionType):
        return [member for argument in arguments for member in members_of(argument)]
    return [union]


def samples(kind: Any, within: tuple[Any, ...] = ()) -> Iterator[Json]:
    """Yield samples of a type; a type inside itself has none."""
    for member in members_of(kind):
        if isinstance(member, type) and issubclass(member, pydantic.BaseModel):
            if member not in within:
                yield from _of_model(member, (*within, member))
        else:
            yield from _of_annotation(member, within)


def _of_annotation(kind: Any, within: tuple[Any, ...]) -> list[Json]:
    arguments = typing.get_args(kind)
    match typing.get_origin(kind):
        case None:
            return _PLAIN[kind]
        case origin if origin is Literal:
            return [arguments[0]]
        case origin if origin is list:
            return [list(samples(arguments[0], within)), []]
        case _:
            return [{"key": value} for value in samples(arguments[1], within)] + [{}]


def _of_model(model: type[pydantic.BaseModel], within: tuple[Any, ...]) -> Iterator[Json]:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    values = {key: list(samples(field.annotation, within)) for key, field in fields.items()}
    values = {key: choices for key, choices in values.items() if choices}
    small = {key: choices[-1] for key, choices in values.items() if fields[key].is_required()}
    yield {key: choices[0] for key, choices in values.items()}
    yield small
    for key, choices in values.items():
        yield from (small | {key: choice} for choice in choices[1:])
