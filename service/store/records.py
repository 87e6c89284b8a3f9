"""Records of conversations: what is kept of nodes, and nodes made of what was kept.

Pure. A record that continues another holds what its node added; one that stands alone holds all that
its node is continued with. Items stay bytes on both ways: a conversation of any length is read without
parsing what was said in it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from service import ids
from service.conversation import (
    AddedTools,
    DurableNode,
    Fingerprint,
    Node,
    Packed,
    Rendered,
    Segment,
)
from turnwire.v1 import state_pb2

VERSION = 1
"""Of what is kept. A record of a later one counts as absent: a newer replica wrote it."""


class Base(NamedTuple):
    """What records continue."""

    segment: Segment | None = None
    tools: AddedTools | None = None

    @classmethod
    def of(cls, node: Node | None) -> "Base":
        """Return what a node is continued with."""
        return cls(node.segment, node.tools) if node else cls()


def continues(node: DurableNode) -> bool:
    """Whether a node's record is read after its parent's.

    It is not where nothing comes before, where a compaction left that behind, and where a new tree begins.
    """
    parent = node.parent_id
    same_tree = parent is not None and ids.root_of(parent) == ids.root_of(node.id)
    return same_tree and node.segment.parent is not None


def added(node: DurableNode, parent: Node | None) -> state_pb2.StoredPath:
    """Return what a node adds to what it continues. Without its parent the last tools are told again."""
    path = _path(node, [node.segment])
    before = parent.tools if parent else None
    if node.tools and not (before and before.count == node.tools.count):
        path.added_tools.extend(node.tools.own)
    return path


def whole(node: DurableNode) -> state_pb2.StoredPath:
    """Return all that a node is continued with."""
    path = _path(node, node.segment.path())
    if node.tools:
        path.added_tools.extend(node.tools.parsed())
    return path


def response(node: DurableNode) -> state_pb2.StoredResponse:
    """Return what can be retrieved of a node."""
    return state_pb2.StoredResponse(
        version=VERSION, response=node.response_data, trace=node.trace_data
    )


def continuing(
    tenant: str, name: str, paths: Sequence[state_pb2.StoredPath], base: Base
) -> DurableNode:
    """Return the node of a record, from the records back to `base`, its own first. It has no response."""
    segment, tools = base
    for path in reversed(paths):
        for kept in path.segments:
            segment = Segment(segment, _packed(kept), _rendered(kept))
        tools = _tools(path, tools)
    return _node(tenant, name, paths[0], Base(segment, tools))


def retrieved(
    tenant: str, name: str, path: state_pb2.StoredPath, kept: state_pb2.StoredResponse
) -> DurableNode:
    """Return the node of a record with its response and its own items, and without what it continues."""
    own = Segment(None, _packed(path.segments[-1]))
    return _node(tenant, name, path, Base(own), kept)


def _path(node: DurableNode, segments: Iterable[Segment]) -> state_pb2.StoredPath:
    return state_pb2.StoredPath(
        version=VERSION,
        parent_id=node.parent_id or "",
        segments=map(_segment, segments),
        inputs=node.inputs,
        pending_calls=sorted(node.pending_calls),
        tokens=node.tokens,
        fingerprint=node.fingerprint or (),
        continuable=node.continuable,
        pinned=node.pinned,
        tools=node.tools.count if node.tools else 0,
    )


def _segment(segment: Segment) -> state_pb2.StoredSegment:
    data, count, opened = segment.packed
    kept = state_pb2.StoredSegment(items=data, count=count, opened=opened)
    for dialect, rendered in segment.rendered.items():
        kept.renderings[dialect].data = rendered.data
        kept.renderings[dialect].tokens = rendered.tokens
        kept.renderings[dialect].asks = rendered.asks
    return kept


def _packed(kept: state_pb2.StoredSegment) -> Packed:
    return Packed(kept.items, kept.count, kept.opened)


def _rendered(kept: state_pb2.StoredSegment) -> dict[str, Rendered]:
    return {
        dialect: Rendered(rendering.data, rendering.tokens, rendering.asks)
        for dialect, rendering in kept.renderings.items()
    }


def _tools(path: state_pb2.StoredPath, before: AddedTools | None) -> AddedTools | None:
    if path.tools == (before.count if before else 0):
        return before
    return AddedTools(before, path.added_tools)


def _node(
    tenant: str,
    name: str,
    path: state_pb2.StoredPath,
    ends: Base,
    kept: state_pb2.StoredResponse | None = None,
) -> DurableNode:
    assert ends.segment is not None  # every record has one at least
    return DurableNode(
        tenant=tenant,
        id=name,
        parent_id=path.parent_id or None,
        segment=ends.segment,
        inputs=path.inputs,
        pending_calls=frozenset(path.pending_calls),
        tools=ends.tools,
        tokens=path.tokens,
        fingerprint=Fingerprint(*path.fingerprint) if path.fingerprint else None,
        response_data=kept.response if kept else b"",
        trace_data=kept.trace if kept else b"",
        continuable=path.continuable,
        pinned=path.pinned,
    )
