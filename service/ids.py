"""Ids: unguessable, and without meaning to whoever holds them.

A response's id is `resp_<root><node>`, 16 base-62 characters each, 95 random bits. The root is drawn
with the first response of a conversation and shared by all that continue or fork it, so that a whole
tree can be stored under one key. An item's id is `<kind>_<root><node>` and its place, `o3` in the
output or `i3` in the input: so an item that is referred to can be found without an index.
"""

import re
import secrets
from typing import NamedTuple

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH = 16
_PREFIX = "resp_"
_RESPONSE = re.compile(r"resp_[0-9A-Za-z]{32}")
_CONVERSATION = re.compile(r"conv_[0-9A-Za-z]{16}")
_ITEM = re.compile(r"[a-z]+_([0-9A-Za-z]{32})([io])(\d{1,6})")


def response_id(parent: str | None) -> str:
    """Draw the id of a response that continues `parent`, or begins a conversation."""
    return f"{_PREFIX}{root_of(parent) if parent else _draw()}{_draw()}"


def item_id(prefix: str, response: str, index: int) -> str:
    """Return the id of an item, or a call, of a response's output: `msg_…`, `fc_…`, `call_…`."""
    return f"{prefix}_{response[len(_PREFIX) :]}o{index}"


def input_item_id(prefix: str, response: str, index: int) -> str:
    """Return the id of an item of a response's input that came without one."""
    return f"{prefix}_{response[len(_PREFIX) :]}i{index}"


class Place(NamedTuple):
    """Where an item is: in the input ("i") or the output ("o") of a response."""

    response_id: str
    part: str
    number: int


def place_of(item: str) -> Place | None:
    """Return where an item is, if its id was given by `item_id` or `input_item_id`."""
    match = _ITEM.fullmatch(item)
    return Place(_PREFIX + match[1], match[2], int(match[3])) if match else None


def is_response(name: str) -> bool:
    """Tell whether this could be a response's id: no other was ever given."""
    return _RESPONSE.fullmatch(name) is not None


def is_conversation(name: str) -> bool:
    """Tell whether this could be a conversation's id."""
    return _CONVERSATION.fullmatch(name) is not None


def draw(prefix: str) -> str:
    """Draw an id for something that belongs to no response: `steer_…`, `cmp_…`."""
    return f"{prefix}_{_draw()}"


def root_of(response: str) -> str:
    """Return what all responses of one conversation tree share."""
    return response[len(_PREFIX) : len(_PREFIX) + _LENGTH]


def _draw() -> str:
    number = secrets.randbits(96)
    characters = []
    for _ in range(_LENGTH):
        number, index = divmod(number, 62)
        characters.append(_ALPHABET[index])
    return "".join(characters)
