"""The hot path's form of a token: a small tuple that writes its JSON and its protobuf bytes itself.

What the deltas of one part share is made once, by the slow road; a delta only fills in its number
and its text. A test proves that the bytes are the slow road's.
"""

from typing import Final, NamedTuple, TypeAlias

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from turnwire import json_codec
from turnwire.v1 import events_pb2

_VARINT, _LENGTH_DELIMITED = 0, 2  # protobuf's wire types


class DeltaSource:
    """What the deltas of one part share. Made once for every part that streams."""

    __slots__ = ("_json_frame", "_template", "_wire_frame")

    def __init__(self, template: events_pb2.ServerEvent) -> None:
        self._template = template
        self._json_frame: _JsonFrame | None = None
        self._wire_frame: _WireFrame | None = None

    def message(self, sequence_number: int, text: str) -> events_pb2.ServerEvent:
        """Return one of the deltas as a message."""
        event = events_pb2.ServerEvent()
        event.CopyFrom(self._template)
        event.sequence_number = sequence_number
        _variant(event).delta = text  # type: ignore[attr-defined]
        return event

    @property
    def json_frame(self) -> "_JsonFrame":
        """What the deltas' JSON has in common."""
        if self._json_frame is None:
            self._json_frame = _JsonFrame.of(self)
        return self._json_frame

    @property
    def wire_frame(self) -> "_WireFrame":
        """What the deltas' protobuf bytes have in common."""
        if self._wire_frame is None:
            self._wire_frame = _WireFrame.of(self)
        return self._wire_frame


class Delta(NamedTuple):
    """More of one part's text: a server event."""

    source: DeltaSource
    sequence_number: int
    text: str

    def message(self) -> events_pb2.ServerEvent:
        """Return the event as a message."""
        return self.source.message(self.sequence_number, self.text)

    def json(self) -> bytes:
        """Write the event as `json_codec.encode` does."""
        head, middle, tail = self.source.json_frame
        return b"".join(
            (head, orjson.dumps(self.sequence_number), middle, orjson.dumps(self.text), tail)
        )

    def wire(self) -> bytes:
        """Write the event as protobuf does."""
        number_tag, kind, head, text_tag, tail = self.source.wire_frame
        text = self.text.encode()
        body = b"".join((head, text_tag, _varint(len(text)), text, tail)) if text else head + tail
        number = _varint(self.sequence_number)
        return b"".join((number_tag, number, kind, _varint(len(body)), body))


Event: TypeAlias = events_pb2.ServerEvent | Delta
"""A server event, in the form that suits it."""


LAST: Final = frozenset({"completed", "failed", "incomplete", "error"})
"""Kinds of events after which a response has no more."""


def is_last(event: Event) -> bool:
    """Tell whether a response has no events after this one."""
    return not isinstance(event, Delta) and event.WhichOneof("kind") in LAST


def to_message(event: Event) -> events_pb2.ServerEvent:
    """Return an event as a message."""
    return event.message() if isinstance(event, Delta) else event


def to_json(event: Event) -> bytes:
    """Write an event as JSON."""
    return event.json() if isinstance(event, Delta) else json_codec.encode(event)


def to_wire(event: Event) -> bytes:
    """Write an event as protobuf."""
    if isinstance(event, Delta):
        return event.wire()
    return event.SerializeToString(deterministic=True)


class _JsonFrame(NamedTuple):
    """The JSON before the number, between number and text, and after the text."""

    head: bytes
    middle: bytes
    tail: bytes

    @classmethod
    def of(cls, source: DeltaSource) -> "_JsonFrame":
        """Find both places: two deltas that differ in a digit and a letter differ nowhere else."""
        one = json_codec.encode(source.message(1, "a"))
        other = json_codec.encode(source.message(2, "b"))
        digit, letter = (at for at, byte in enumerate(one) if byte != other[at])
        return cls(one[:digit], one[digit + 1 : letter - 1], one[letter + 2 :])


class _WireFrame(NamedTuple):
    """The bytes around the number, around the variant's length, and around the text in the variant.

    Protobuf writes fields in the order of their numbers: what stands before and after one can be
    written apart.
    """

    number_tag: bytes
    kind: bytes
    head: bytes
    text_tag: bytes
    tail: bytes

    @classmethod
    def of(cls, source: DeltaSource) -> "_WireFrame":
        """Write each stretch by itself."""
        event = source.message(0, "")
        variant = _variant(event)
        kind = event.DESCRIPTOR.fields_by_name[event.WhichOneof("kind") or ""]
        number = event.DESCRIPTOR.fields_by_name["sequence_number"]
        text = variant.DESCRIPTOR.fields_by_name["delta"]
        return cls(
            number_tag=_tag(number.number, _VARINT),
            kind=_between(event, number.number, kind.number) + _tag(kind.number, _LENGTH_DELIMITED),
            head=_between(variant, 0, text.number),
            text_tag=_tag(text.number, _LENGTH_DELIMITED),
            tail=_between(variant, text.number, FieldDescriptor.MAX_FIELD_NUMBER),
        )


def _variant(event: events_pb2.ServerEvent) -> Message:
    variant: Message = getattr(event, event.WhichOneof("kind") or "")
    return variant


def _between(message: Message, low: int, high: int) -> bytes:
    """Write the fields whose numbers lie between two others."""
    part = type(message)()
    part.CopyFrom(message)
    for field, _ in message.ListFields():
        if not low < field.number < high:
            part.ClearField(field.name)
    return part.SerializeToString(deterministic=True)


def _tag(number: int, wire_type: int) -> bytes:
    return _long_varint(number << 3 | wire_type)


def _varint(number: int) -> bytes:
    return _VARINTS[number] if number < len(_VARINTS) else _long_varint(number)


def _long_varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


_VARINTS: Final = tuple(map(_long_varint, range(4096)))
