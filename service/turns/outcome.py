"""How a turn ended."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from service.conversation import Node
from service.errors import Refusal
from turnwire.v1 import items_pb2


class Outcome(NamedTuple):
    """How a turn ended."""

    word: Literal["ok", "failed", "refused", "cancelled"]
    node: Node | None = None
    """What can be continued, if anything."""
    refusal: Refusal | None = None
    """Why the response never existed; the client has not been told yet."""
    output: Sequence[items_pb2.Item] = ()
    """What the response says."""
