"""Conversations as immutable trees of finished responses.

A `Segment` is what one turn added: its items, and what was made of them once. A `Node` is a
finished response that can be continued; it points at its segment, the segment at its parent's.
Continuing and forking are the same operation and cost the same, whatever the length. Tools that items
of a conversation add are links of a chain of their own, which outlives a compaction.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self, TypeAlias

from service.closed import opened_bytes
from turnwire.v1 import items_pb2, responses_pb2, state_pb2

_STRING = 128  # what a short string in a set weighs in Python beyond its characters
_LINK = 576
"""Bytes that a link of a chain weighs in Python beyond its contents, being counted included."""
_NODE = 768
"""The same of a node in a connection's cache."""
_STORED = 640
"""What a node weighs more that is in a store's cache too."""
_RENDERING = 192
"""What a rendering weighs beyond its contents."""


class Rendered(NamedTuple):
    """Items in the form a model server reads: `data` in its dialect, and how many tokens that is."""

    data: bytes
    tokens: int
    asks: bool = False
    """Whether a user speaks in it: some models are not told the thoughts behind earlier answers."""


class Packed(NamedTuple):
    """Items as they are kept, and what need not be parsed to be known of them."""

    data: bytes
    """A serialised `Items`."""
    items: int
    """How many they are."""
    opened: int
    """Bytes that the sealed items among them open to."""

    @classmethod
    def of(cls, items: Iterable[items_pb2.Item]) -> Self:
        """Pack items."""
        held = items_pb2.Items(items=items)
        return cls(held.SerializeToString(), len(held.items), opened_bytes(held.items))


Renderings: TypeAlias = Mapping[str, Rendered]
"""What was rendered of the same items, by dialect."""


class Link(Protocol):
    """Part of a chain that is shared by all that continue it."""

    @property
    def parent(self) -> "Link | None":
        """What comes before."""

    @property
    def weight(self) -> int:
        """Bytes of memory this link alone holds, roughly."""


class Segment:
    """What one turn added to a conversation: input items, then output items.

    The items are kept as bytes: parsed they would take several times the memory, and they are read
    again only where no rendering of them is left.
    """

    __slots__ = ("_items", "count", "length", "opened", "parent", "rendered")

    def __init__(
        self,
        parent: "Segment | None",
        items: Packed | Iterable[items_pb2.Item],
        rendered: Renderings | None = None,
    ) -> None:
        packed = items if isinstance(items, Packed) else Packed.of(items)
        self.parent = parent
        self._items = packed.data
        self.count: int = packed.items + (parent.count if parent else 0)
        """Items of the conversation up to here."""
        self.opened: int = packed.opened + (parent.opened if parent else 0)
        """Bytes that the sealed items among them open to."""
        self.length: int = len(self._items) + (parent.length if parent else 0)
        """Bytes of all items of the conversation up to here."""
        self.rendered: dict[str, Rendered] = dict(rendered or {})
        """By dialect. Filled by the backend that renders it first; losing it costs time only."""

    @property
    def packed(self) -> Packed:
        """The items of this segment alone, as they are kept."""
        before = self.parent
        return Packed(
            self._items,
            self.count - (before.count if before else 0),
            self.opened - (before.opened if before else 0),
        )

    @property
    def items(self) -> Sequence[items_pb2.Item]:
        """The items, parsed anew with every look."""
        return items_pb2.Items.FromString(self._items).items

    @property
    def weight(self) -> int:
        """Bytes of memory this segment alone holds, roughly."""
        rendered = sum(_RENDERING + len(one.data) for one in self.rendered.values())
        return _LINK + len(self._items) + rendered

    def path(self) -> "list[Segment]":
        """Return all segments of the conversation up to this one, oldest first."""
        path: list[Segment] = []
        segment: Segment | None = self
        while segment is not None:
            path.append(segment)
            segment = segment.parent
        path.reverse()
        return path


class AddedTools:
    """Tools that items of a conversation added, after those that earlier items added.

    Like the items of a segment they are kept as bytes.
    """

    __slots__ = ("_tools", "count", "parent")

    def __init__(self, parent: "AddedTools | None", tools: Sequence[items_pb2.Tool]) -> None:
        self.parent = parent
        self._tools = items_pb2.AdditionalTools(tools=tools).SerializeToString()
        self.count: int = len(tools) + (parent.count if parent else 0)
        """How many there are up to here."""

    @property
    def weight(self) -> int:
        """Bytes of memory this link alone holds, roughly."""
        return _LINK + len(self._tools)

    @property
    def own(self) -> Sequence[items_pb2.Tool]:
        """The tools of this link alone, parsed anew with every look."""
        return items_pb2.AdditionalTools.FromString(self._tools).tools

    def parsed(self) -> Sequence[items_pb2.Tool]:
        """Return all tools up to here in the order they were added, parsed anew."""
        links: list[AddedTools] = []
        link: AddedTools | None = self
        while link is not None:
            links.append(link)
            link = link.parent
        return [tool for one in reversed(links) for tool in one.own]


class Fingerprint(NamedTuple):
    """What a prompt depended on beside its items: a hash of each."""

    model: int
    prompt_cache_key: int
    instructions: int
    tools: int
    text_format: int
    verbosity: int
    reasoning_effort: int
    service_tier: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Node:
    """A finished response that can be continued. It lives in its connection's memory, nowhere else."""

    tenant: str
    id: str
    parent_id: str | None
    segment: Segment
    inputs: int
    """How many of the segment's items are input; output follows them."""
    pending_calls: frozenset[str]
    """Calls of the conversation that no output has answered yet."""
    tools: AddedTools | None = None
    """Tools that items of the conversation added: the parent's own link where nothing was added."""
    tokens: int = 0
    """How long the conversation was at the end of the turn, as far as the model server told."""
    fingerprint: Fingerprint | None = None
    crowded: bool = False
    """Whether its tree has no room for more: what continues it begins a tree of its own."""

    @property
    def tree(self) -> str | None:
        """Whose tree what continues it belongs to: its own, or a new one."""
        return None if self.crowded else self.id

    @property
    def chains(self) -> Sequence[Link]:
        """What it shares with what it continues, and with what continues it."""
        return (self.segment, self.tools) if self.tools else (self.segment,)

    @property
    def weight(self) -> int:
        """Bytes of memory this node holds beyond its chains, roughly."""
        return _NODE + sum(_STRING + len(call) for call in self.pending_calls)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DurableNode(Node):
    """A node that may be stored. Only these are accepted by a `Store`: `store: false` has no way in.

    One that was fetched to be continued may come without its response, one that was fetched to be
    shown without what it continues.
    """

    response_data: bytes
    """The response, serialised: what can be retrieved."""
    trace_data: bytes
    """How its events were cut, serialised: a `Trace`."""
    continuable: bool = True
    """Whether it can be continued: what failed or was cancelled can only be retrieved."""
    pinned: bool = False
    """Whether a conversation stands on it: deleting the response leaves it what was said."""

    @property
    def response(self) -> responses_pb2.Response:
        """The response, parsed anew with every look."""
        return responses_pb2.Response.FromString(self.response_data)

    @property
    def trace(self) -> state_pb2.Trace:
        """How its events were cut, parsed anew with every look."""
        return state_pb2.Trace.FromString(self.trace_data)

    @property
    def weight(self) -> int:
        """Bytes of memory this node holds beyond its chains, roughly."""
        stored = _STORED + len(self.response_data) + len(self.trace_data)
        return super(DurableNode, self).weight + stored
