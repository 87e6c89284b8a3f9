"""Which items of a conversation are kept as they were when the rest of it is left out.

What is kept makes sense by itself: no call is left out whose answer may still come, and no answer is
kept whose call is left out.
"""

from collections.abc import Callable, Sequence

from service.requests.calls import Tie, is_models, tie
from turnwire.v1 import items_pb2

_STANDING = {"system", "developer"}


class Excerpt:
    """The older part of a conversation, in which items are chosen to be kept."""

    def __init__(self, older: Sequence[items_pb2.Item], recent: Sequence[items_pb2.Item]) -> None:
        """Take what may be left out, and what follows it and stays whole."""
        self._older = older
        standing = {place for place, item in enumerate(older) if _stands(item)}
        self._needed = standing | _open_calls(older, recent)

    def newest(
        self, wanted: Callable[[items_pb2.Item], bool], most_bytes: int
    ) -> Sequence[items_pb2.Item]:
        """Return what has to be kept, and of what else is wanted the newest, as far as they fit."""
        kept = set(self._needed)
        left = most_bytes - sum(self._older[place].ByteSize() for place in kept)
        for place in reversed(range(len(self._older))):
            if place not in kept and wanted(self._older[place]):
                left -= self._older[place].ByteSize()
                if left < 0:
                    break
                kept.add(place)
        return _paired([self._older[place] for place in sorted(kept)])


def last_takeover(items: Sequence[items_pb2.Item]) -> int:
    """Return where an item of the client's last follows one of the model's; 0 if none does."""
    for place in range(len(items) - 1, 0, -1):
        if is_models(items[place - 1]) and not is_models(items[place]):
            return place
    return 0


def _open_calls(older: Sequence[items_pb2.Item], recent: Sequence[items_pb2.Item]) -> set[int]:
    """Return where in `older` the calls stand that nothing there answers, or something recent does."""
    opened: dict[str, int] = {}
    latest: dict[str, int] = {}
    for place, item in enumerate(older):
        match tie(item):
            case Tie(call_id, answers=True):
                opened.pop(call_id, None)
            case Tie(call_id):
                opened[call_id] = latest[call_id] = place
    answered = {tied.call_id for item in recent if (tied := tie(item)) and tied.answers}
    return {*opened.values(), *(latest[call_id] for call_id in answered & latest.keys())}


def _paired(items: Sequence[items_pb2.Item]) -> Sequence[items_pb2.Item]:
    """Leave out the answers to calls that are not there."""
    called: set[str] = set()
    paired = []
    for item in items:
        tied = tie(item)
        if tied and not tied.answers:
            called.add(tied.call_id)
        if not tied or tied.call_id in called:
            paired.append(item)
    return paired


def _stands(item: items_pb2.Item) -> bool:
    """Whether an item goes on to hold, however long ago it was said."""
    return item.HasField("additional_tools") or item.message.role in _STANDING
