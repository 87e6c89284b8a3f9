"""What is left of a turn that has ended: the node that can be continued, or only a record of it."""

import dataclasses
import functools
from collections.abc import Sequence

from service import ids
from service.compaction import estimate
from service.conversation import DurableNode, Node, Renderings, Segment
from service.paging import identified
from service.requests.request import pending_calls
from service.turns.plan import Plan
from service.turns.turn import Turn
from turnwire.v1 import items_pb2


def node_of(
    plan: Plan,
    turn: Turn,
    said: Sequence[items_pb2.Item] | None,
    rendered: Renderings,
) -> Node:
    """Return the node of a turn that added `said` as its input; None if that was withheld.

    Raises `Refusal` if what the model produced cannot be kept.
    """
    request, response, parent = plan.request, turn.response, plan.request.parent
    if said is None:
        said, tools = (), parent.tools if parent else None
        pending = parent.pending_calls if parent else frozenset[str]()
    else:
        tools, pending = request.added_tools, request.pending_calls
    if plan.joined:  # a conversation lists its items by ids that do not change
        draw = functools.partial(_input_id, response.id)
        said = identified(said, draw)
    node = Node(
        tenant=plan.tenant,
        id=response.id,
        parent_id=parent.id if parent else None,
        segment=_segment(plan, [*said, *response.output], rendered),
        inputs=len(said),
        pending_calls=pending_calls(pending, response.output),
        tools=tools,
        tokens=_tokens(plan, turn, said),
        fingerprint=plan.fingerprint,
    )
    if not request.store:
        return node
    durable = _durable(node, turn, continuable=response.status != "cancelled")
    return dataclasses.replace(durable, pinned=plan.joined is not None)


def record_of(plan: Plan, turn: Turn, said: Sequence[items_pb2.Item] | None) -> DurableNode:
    """Return what is kept of a stored response that failed: it can be retrieved, not continued."""
    items = said or ()
    node = Node(
        tenant=plan.tenant,
        id=turn.response.id,
        parent_id=None,
        segment=Segment(None, items),
        inputs=len(items),
        pending_calls=frozenset(),
    )
    return _durable(node, turn, continuable=False)


def without_successors(kept: DurableNode, turn: Turn) -> DurableNode:
    """Return what is kept of a response that failed when its node was kept already.

    Its items stay: that nobody heard of a conversation's move does not mean that it has not moved.
    """
    return dataclasses.replace(
        kept,
        response_data=turn.response.SerializeToString(),
        trace_data=turn.trace().SerializeToString(),
        continuable=False,
    )


def _tokens(plan: Plan, turn: Turn, said: Sequence[items_pb2.Item]) -> int:
    """Return how long the conversation is now: as the model server told, or else by estimate."""
    if finished := turn.finished:
        return finished.input_tokens + finished.output_tokens
    parent = None if plan.request.begins_anew else plan.request.parent
    return (parent.tokens if parent else 0) + estimate([*said, *turn.response.output])


def _input_id(response_id: str, prefix: str, index: int) -> str:
    return ids.input_item_id(prefix, response_id, index)


def _segment(plan: Plan, items: Sequence[items_pb2.Item], rendered: Renderings) -> Segment:
    """Return the turn's segment. Whatever comes before a compaction is left behind."""
    parent = plan.request.parent
    anew = parent is None or any(item.HasField("compaction") for item in items)
    return Segment(None if anew or parent is None else parent.segment, items, rendered)


def _durable(node: Node, turn: Turn, *, continuable: bool) -> DurableNode:
    return DurableNode(
        tenant=node.tenant,
        id=node.id,
        parent_id=node.parent_id,
        segment=node.segment,
        inputs=node.inputs,
        pending_calls=node.pending_calls,
        tools=node.tools,
        tokens=node.tokens,
        fingerprint=node.fingerprint,
        response_data=turn.response.SerializeToString(),
        trace_data=turn.trace().SerializeToString(),
        continuable=continuable,
    )
