"""Ids: unguessable, and without meaning to whoever holds them.

A response's id is `resp_<root><node>`, 16 base-62 characters each, 95 random bits. The root is drawn
with the first response of a conversation and shared by all that continue or fork it, so that a whole
tree can be stored under one key.
"""

import secrets

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_LENGTH = 16
_PREFIX = "resp_"


def response_id(parent: str | None) -> str:
    """Draw the id of a response that continues `parent`, or begins a conversation."""
    return f"{_PREFIX}{root_of(parent) if parent else _draw()}{_draw()}"


def item_id(prefix: str) -> str:
    """Draw the id of an item or a call: `msg_…`, `fc_…`, `call_…`."""
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
