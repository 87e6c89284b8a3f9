"""The Responses API's JSON dialect of the contract's messages.

Nothing here names a message: the dialect is what `json_form.proto` says beside each field, compiled
by `turnwire.json_form` when a type is first met.
"""

from typing import TypeVar

from google.protobuf.message import Message

from turnwire import strict_json
from turnwire.json_form import form_of
from turnwire.strict_json import InvalidJson

__all__ = ["InvalidJson", "canonical", "decode", "encode"]

M = TypeVar("M", bound=Message)


def decode(message_type: type[M], data: bytes | str) -> M:
    """Read a JSON object. Raises `InvalidJson`, and nothing else, whatever the data."""
    members = strict_json.parse_object(data)
    return message_type(**form_of(message_type.DESCRIPTOR).read(members, 0))


def encode(message: Message) -> bytes:
    """Write a message as JSON, without whitespace."""
    return strict_json.dump(form_of(message.DESCRIPTOR).write(message))


def canonical(message: M) -> M:
    """Return a message that came as protobuf as if it had come as JSON. Raises `InvalidJson`.

    What JSON may not leave out is not left out here either; an empty string cannot be told from none.
    Opaque text could be no JSON, or say what has a field of its own; messages without it are good.
    """
    form = form_of(message.DESCRIPTOR)
    form.check(message)
    if not form.holds_text(message):
        return message
    return decode(type(message), encode(message))
