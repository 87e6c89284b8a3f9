"""What of a conversation is left where it does not fit its model's context.

For requests with `truncation: "auto"`. The oldest goes first: items one by one, a call always with its
output. What the model is to answer stays: the newest message of the user, and outputs of calls that
came last. What goes is measured in steps, so that for many turns the prompt begins alike and the model
server finds it cached.
"""

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from service.backends import Prompt
from service.requests.calls import tie
from turnwire.v1 import items_pb2, responses_pb2

_STEPS = 4  # in a context: how often the beginning of a growing prompt moves
_MOST_ROOM = 4  # the answer's share of a context, as its reciprocal


class _Place(NamedTuple):
    """Where an item is: in which turn, and where in it."""

    turn: int
    position: int


class _Entry(NamedTuple):
    place: _Place
    item: items_pb2.Item
    tokens: float
    """Its share of its turn's tokens, by its size."""


_Group: TypeAlias = dict[_Place, float]
"""Items that stay or go together, with their tokens."""


def most_tokens(settings: responses_pb2.Settings, context: int) -> int:
    """Return how long a shortened prompt may be, so that there is room for an answer."""
    room = context // _MOST_ROOM
    asked = settings.max_output_tokens if settings.HasField("max_output_tokens") else room
    return context - min(asked, room)


def turns_of(prompt: Prompt) -> list[Sequence[items_pb2.Item]]:
    """Return a conversation's items, turn by turn; the last turn is the new input."""
    return [*(prompt.legible(segment.items) for segment in prompt.history), prompt.input]


class Window:
    """A conversation that is being shortened."""

    def __init__(self, prompt: Prompt, tokens: Sequence[int], context: int) -> None:
        """`tokens` are those of each turn; `context` is how many the model can read."""
        self._turns = turns_of(prompt)
        self._step = max(1, context // _STEPS)
        self._gone: set[_Place] = set()
        self._gone_tokens = 0.0
        entries = list(_entries(self._turns, tokens))
        staying = _staying(entries)
        self._droppable = deque(group for group in _groups(entries) if staying.isdisjoint(group))

    @property
    def turns(self) -> list[Sequence[items_pb2.Item]]:
        """What is left of each turn."""
        return [
            [item for position, item in enumerate(items) if (turn, position) not in self._gone]
            for turn, items in enumerate(self._turns)
        ]

    @property
    def touched(self) -> set[int]:
        """The turns that are no longer whole."""
        return {place.turn for place in self._gone}

    def drop(self, tokens: int) -> bool:
        """Let go of the oldest, of about so many tokens. Return whether there was anything to drop."""
        if not self._droppable:
            return False
        enough = math.ceil((self._gone_tokens + tokens) / self._step) * self._step
        while self._droppable and self._gone_tokens < enough:
            group = self._droppable.popleft()
            self._gone.update(group)
            self._gone_tokens += sum(group.values())
        return True


def _entries(turns: Sequence[Sequence[items_pb2.Item]], tokens: Sequence[int]) -> Iterator[_Entry]:
    for turn, (items, whole) in enumerate(zip(turns, tokens, strict=True)):
        sizes = [1 + item.ByteSize() for item in items]
        share = whole / sum(sizes) if sizes else 0
        for position, (item, size) in enumerate(zip(items, sizes, strict=True)):
            yield _Entry(_Place(turn, position), item, size * share)


def _groups(entries: Sequence[_Entry]) -> list[_Group]:
    """Keep calls and their outputs together; groups are as old as their first item."""
    groups: dict[str | _Place, _Group] = {}
    for place, item, tokens in entries:
        tied = tie(item)
        groups.setdefault((tied and tied.call_id) or place, {})[place] = tokens
    return list(groups.values())


def _staying(entries: Sequence[_Entry]) -> set[_Place]:
    """Return where the newest message of the user is, and the outputs that came last with it.

    Outputs of earlier turns have been answered, also where the model had nothing to say to them.
    """
    asked = [e.place for e in entries if e.item.message.role == "user"][-1:]
    newest = entries[-1].place.turn if entries else 0
    last = itertools.takewhile(
        lambda entry: (
            entry.place.turn == newest and (entry.place in asked or _is_output(entry.item))
        ),
        reversed(entries),
    )
    return {*asked, *(entry.place for entry in last)}


def _is_output(item: items_pb2.Item) -> bool:
    tied = tie(item)
    return tied is not None and tied.answers
