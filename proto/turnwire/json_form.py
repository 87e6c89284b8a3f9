"""The JSON form of a message type, compiled from the options of its fields.

Reading turns a JSON object into the arguments of one constructor call. Writing lays what is set
over a template of what is always written. Both follow tables, made when a type is first met.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import orjson
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from turnwire import strict_json
from turnwire.json_field import (
    SCALARS,
    Convert,
    Field,
    array_of,
    check_length,
    invalid_type,
    invalid_value,
    missing,
    opaque_text,
    string_map,
)
from turnwire.json_take import Members, Take, ignore, keep, refuse_null, store, store_unless_empty
from turnwire.strict_json import KINDS, InvalidJson

_Put: TypeAlias = Callable[[Members, Any], None]
"""Puts a field's value into a JSON object."""

_MAX_DEPTH: Final = 32  # objects in objects; protobuf parsers give up at 100 messages in messages
_UNSET: Final = object()  # in a template: left out unless something is put there


@functools.cache
def form_of(descriptor: Descriptor) -> "Form":
    """Return the JSON form of a message type."""
    return Form(descriptor)


class Form:
    """The JSON form of one message type: one shape, or one for each variant of a tagged union."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor
        self._fields = Field.all_of(descriptor)
        self._variants = [field for field in self._fields if field.is_variant]
        self._oneof = self._variants[0].oneof if self._variants else None

    def read(self, members: Members, depth: int) -> Members:
        """Return the constructor's arguments that an object stands for."""
        if depth > _MAX_DEPTH:
            raise invalid_value(f"more than {_MAX_DEPTH} objects deep")
        shape = self._shape_for(members) if self._variants else self._rest
        return shape.read(members, depth + 1)

    def write(self, message: Message) -> Any:
        """Return what `strict_json.dump` writes as the message's object."""
        shape = self._shapes[message.WhichOneof(self._oneof) if self._oneof else None]
        if shape.is_text:
            return orjson.Fragment(getattr(message, shape.spare_name))
        members = shape.template.copy()
        self.fill(members, message)
        if shape.has_gaps:
            return {key: value for key, value in members.items() if value is not _UNSET}
        return members

    def fill(self, members: Members, message: Message) -> None:
        """Put what is set into an object, last declared first: what is declared beats what is extra."""
        puts = self._puts
        for field, value in reversed(message.ListFields()):
            puts[field.number](members, value)

    def holds_text(self, message: Message) -> bool:
        """Tell whether JSON text is anywhere in a message, or would be if it had come as JSON."""
        if self._is_opaque_unset and message.WhichOneof(self._oneof or "") is None:
            return True
        return any(self._holds_text[field.number](value) for field, value in message.ListFields())

    def check(self, message: Message) -> None:
        """Refuse what an object may not leave out, and lists that are too long: `InvalidJson`."""
        for name, key in self._required_texts:
            if not getattr(message, name):
                invalid = missing()
                invalid.locate(key)
                raise invalid
        for field, value in message.ListFields():
            if check := self._checks.get(field.number):
                check(value)

    def _shape_for(self, members: Members) -> "_Shape":
        if (tag := members.get("type")) is not None:  # null says as much as nothing
            return self._by_type.get(tag, self._rest) if type(tag) is str else self._rest
        return next((shape for key, shape in self._implied if key in members), self._rest)

    @functools.cached_property
    def _shapes(self) -> Mapping[str | None, "_Shape"]:
        shapes: dict[str | None, _Shape] = {None: _Shape(self._descriptor, None)}
        return shapes | {v.name: _Shape(self._descriptor, v) for v in self._variants}

    @functools.cached_property
    def _rest(self) -> "_Shape":
        opaque = next((v.name for v in self._variants if v.json.opaque), None)
        return self._shapes[opaque]

    @functools.cached_property
    def _by_type(self) -> Mapping[str, "_Shape"]:
        return {v.json.type: self._shapes[v.name] for v in self._variants if not v.json.opaque}

    @functools.cached_property
    def _implied(self) -> Sequence[tuple[str, "_Shape"]]:
        implied = [v for v in self._variants if v.json.implied_by]
        return [(v.json.implied_by, self._shapes[v.name]) for v in implied]

    @functools.cached_property
    def _puts(self) -> Mapping[int, _Put]:
        return {field.descriptor.number: _put(field) for field in self._fields}

    @functools.cached_property
    def _is_opaque_unset(self) -> bool:
        """Whether an object is kept as text if it is none of the variants."""
        return any(variant.json.opaque for variant in self._variants)

    @functools.cached_property
    def _required_texts(self) -> Sequence[tuple[str, str]]:
        return [(f.name, f.key) for f in self._fields if f.is_required_text]

    @functools.cached_property
    def _checks(self) -> Mapping[int, Callable[[Any], None]]:
        checked = [field for field in self._fields if field.is_message and not field.is_map]
        return {field.descriptor.number: _check(field) for field in checked}

    @functools.cached_property
    def _holds_text(self) -> Mapping[int, Callable[[Any], bool]]:
        return {field.descriptor.number: _holds_text(field) for field in self._fields}


class _Shape:
    """One kind of object: the members of a message, of one variant, and of what is inline there."""

    def __init__(self, descriptor: Descriptor, variant: Field | None) -> None:
        self.template: Members = {"type": variant.json.type or _UNSET} if variant else {}
        self.spare_name = ""
        self._spare_slot = 0
        self._slots: list[tuple[int, str]] = []
        self._known: dict[str, dict[type, Take]] = {}
        self._required: list[str] = []
        self._is_whole = variant is not None and variant.json.opaque
        if variant and variant.json.type:
            self._known["type"] = {str: ignore, type(None): ignore}
        self._add_fields(0, Field.all_of(descriptor), variant)

    @property
    def is_text(self) -> bool:
        """Whether the object is one opaque text."""
        return self._is_whole and len(self.template) == 1

    @functools.cached_property
    def has_gaps(self) -> bool:
        """Whether members may be left out."""
        return _UNSET in self.template.values()

    def read(self, members: Members, depth: int) -> Members:
        """Return the constructor's arguments that an object stands for."""
        parts = self._new_parts()
        spare = {}
        key = ""
        try:
            for key, value in members.items():
                if (takes := self._known.get(key)) is None:
                    spare[key] = value
                elif (take := takes.get(type(value))) is None:
                    raise invalid_type(takes, value)
                elif not take(parts, value, depth):
                    spare[key] = value
        except InvalidJson as invalid:
            invalid.locate(key)
            raise
        self._require(members)
        if spare or self._is_whole:
            parts[self._spare_slot] |= self._spare_text(spare, depth)
        return parts[0]

    def _spare_text(self, spare: Members, depth: int) -> Members:
        if not self.spare_name:
            raise InvalidJson("invalid_value", "Invalid JSON: members that cannot be kept.")
        return {self.spare_name: opaque_text(spare, depth)}

    def _new_parts(self) -> list[Members]:
        parts: list[Members] = [{}]
        for parent, name in self._slots:
            part = parts[parent][name] = {}
            parts.append(part)
        return parts

    def _require(self, members: Members) -> None:
        for key in self._required:
            if key not in members:
                invalid = missing()
                invalid.locate(key)
                raise invalid

    def _add_fields(self, slot: int, fields: Iterable[Field], variant: Field | None) -> None:
        for field in fields:
            if field.json.extra or (field.json.opaque and field == variant):
                self._spare_slot, self.spare_name = slot, field.name
            elif field.json.inline or field == variant:
                self._add_inline(slot, field)
            elif not field.is_variant:
                self._add_member(slot, field)

    def _add_inline(self, slot: int, field: Field) -> None:
        before = set(self.template)
        self._slots.append((slot, field.name))
        self._add_fields(len(self._slots), Field.all_of(field.message), None)
        if field.json.sparse:
            self.template |= dict.fromkeys(self.template.keys() - before, _UNSET)

    def _add_member(self, slot: int, field: Field) -> None:
        key, takes = field.key, _takes(slot, field)
        known = self._known.get(key, {})
        self._known[key] = known | takes if field.is_nullable else takes | known
        if self.template.get(key, _UNSET) is _UNSET:
            self.template[key] = _default(field)
        if field.is_required:
            self._required.append(key)


def _takes(slot: int, field: Field) -> dict[type, Take]:
    make = store_unless_empty if field.is_lost_when_empty else store
    takes = {kind: make(slot, field.name, convert) for kind, convert in _converts(field).items()}
    return takes | {type(None): _take_null(field)}


def _take_null(field: Field) -> Take:
    if field.is_required:
        return refuse_null
    return ignore if field.is_nullable else keep


def _converts(field: Field) -> Mapping[type, Convert]:
    if field.is_map:
        return {dict: string_map}
    return {list: array_of(_element(field))} if field.is_repeated else _element(field)


def _element(field: Field) -> Mapping[type, Convert]:
    if field.json.opaque:
        return dict.fromkeys(KINDS, opaque_text)
    if field.is_message:
        return {dict: form_of(field.message).read}
    return SCALARS[field.descriptor.type]


def _default(field: Field) -> Any:
    if field.is_nullable:
        return None
    if not field.is_always_written:
        return _UNSET
    if field.is_map:
        return {}
    if field.is_message and not field.is_repeated:
        return form_of(field.message).write(GetMessageClass(field.message)())
    return (
        [] if field.is_repeated else None if field.json.opaque else field.descriptor.default_value
    )


def _put(field: Field) -> _Put:
    if field.json.extra or (field.json.opaque and field.is_variant):
        return lambda members, text: members.update(strict_json.parse_object(text))
    if field.json.type:
        return _put_variant(field)
    if field.json.inline:
        return form_of(field.message).fill
    return _put_member(field.key, _write(field))


def _put_variant(field: Field) -> _Put:
    form, tag = form_of(field.message), field.json.type

    def put(members: Members, message: Message) -> None:
        form.fill(members, message)
        members["type"] = tag

    return put


def _put_member(key: str, write: Callable[[Any], Any]) -> _Put:
    def put(members: Members, value: Any) -> None:
        members[key] = write(value)

    return put


def _write(field: Field) -> Callable[[Any], Any]:
    if field.is_map:
        return dict
    if field.json.opaque:
        write: Callable[[Any], Any] = orjson.Fragment
    elif field.is_message:
        write = form_of(field.message).write
    else:
        return list if field.is_repeated else lambda value: value
    return (lambda values: [write(value) for value in values]) if field.is_repeated else write


def _holds_text(field: Field) -> Callable[[Any], bool]:
    if field.json.opaque or field.json.extra:
        return lambda _value: True
    if field.is_map or not field.is_message:
        return lambda _value: False
    holds_text = form_of(field.message).holds_text
    return (lambda values: any(map(holds_text, values))) if field.is_repeated else holds_text


def _check(field: Field) -> Callable[[Any], None]:
    if field.is_repeated:
        return _located(field.key, _check_list(form_of(field.message).check))
    if field.is_variant or field.json.inline:  # its members stand in the same object
        return form_of(field.message).check
    return _located(field.key, form_of(field.message).check)


def _check_list(check_one: Callable[[Any], None]) -> Callable[[Any], None]:
    def check(values: Sequence[Message]) -> None:
        check_length(values)
        for index, value in enumerate(values):
            try:
                check_one(value)
            except InvalidJson as invalid:
                invalid.locate(f"[{index}]")
                raise

    return check


def _located(key: str, check: Callable[[Any], None]) -> Callable[[Any], None]:
    def located(value: Any) -> None:
        try:
            check(value)
        except InvalidJson as invalid:
            invalid.locate(key)
            raise

    return located
