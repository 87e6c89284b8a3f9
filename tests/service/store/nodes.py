"""Nodes as turns leave them behind, for tests of stores."""

import dataclasses
from collections.abc import Sequence

from service import ids
from service.conversation import AddedTools, DurableNode, Fingerprint, Rendered, Segment
from turnwire.v1 import items_pb2, responses_pb2, state_pb2


def item(text: str) -> items_pb2.Item:
    return items_pb2.Item(message=items_pb2.Message(role="user", content_text=text))


def tools(*names: str, onto: AddedTools | None = None) -> AddedTools:
    tools = [items_pb2.Tool(function=items_pb2.FunctionTool(name=name)) for name in names]
    return AddedTools(onto, tools)


def node(
    said: str = "hello",
    parent: DurableNode | None = None,
    tenant: str = "alice",
    name: str | None = None,
) -> DurableNode:
    """Return the node of a turn in which `said` was said."""
    name = name or ids.response_id(None if parent is None or parent.crowded else parent.id)
    rendered = {"dialect": Rendered(said.encode(), 7, asks=True)}
    return DurableNode(
        tenant=tenant,
        id=name,
        parent_id=parent.id if parent else None,
        segment=Segment(parent.segment if parent else None, [item(said)], rendered),
        inputs=1,
        pending_calls=frozenset({"call_1"}),
        tools=parent.tools if parent else None,
        tokens=11,
        fingerprint=Fingerprint(*range(2**64 - 8, 2**64)),
        response_data=responses_pb2.Response(id=name).SerializeToString(),
        trace_data=state_pb2.Trace(warm_up=True).SerializeToString(),
    )


def compacted(said: str, parent: DurableNode) -> DurableNode:
    """Return the node of a turn that left all before it behind, but for the tools."""
    return dataclasses.replace(node(said, parent), segment=Segment(None, [item(said)]))


def said(found: DurableNode | None) -> Sequence[str]:
    assert found
    return [item.message.content_text for part in found.segment.path() for item in part.items]


def told(found: DurableNode | None) -> Sequence[str]:
    """Return the names of the tools that a conversation has added."""
    assert found
    return [tool.function.name for tool in found.tools.parsed()] if found.tools else []
