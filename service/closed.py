"""Items that are sealed: which of a conversation a model cannot be told as they stand.

Pure: nothing is opened here. How much would come of it stands on what is sealed.
"""

from collections.abc import Iterable

from service.limits import MIB
from service.sealing import MARK, plain_length
from turnwire.v1 import items_pb2

MOST_OPENED = 16 * MIB
"""Bytes that all sealed items of a conversation may open to: some four million tokens. Sealed texts are
compressed, and opening so much takes the event loop some tens of milliseconds."""
TOO_MUCH_SEALED = (
    f"All 'encrypted_content' of a conversation may come to {MOST_OPENED} bytes at most. "
    "Begin a new one."
)


def is_closed(item: items_pb2.Item) -> bool:
    """Whether an item is not for a model as it stands."""
    kind = item.WhichOneof("kind")
    if kind == "reasoning":
        reasoning = item.reasoning
        return not reasoning.content and reasoning.encrypted_content.startswith(MARK)
    return kind in {"compaction", "compaction_trigger"}


def opened_bytes(items: Iterable[items_pb2.Item]) -> int:
    """Return how many bytes come of opening items. What a compaction supersedes is not opened."""
    opened = 0
    for item in items:
        if item.HasField("compaction"):
            opened = plain_length(item.compaction.encrypted_content)
        elif is_closed(item):
            opened += plain_length(item.reasoning.encrypted_content)
    return opened
