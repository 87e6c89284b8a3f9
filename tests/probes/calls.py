"""The gRPC calls that name a thing of a tenant's."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from google.protobuf.message import Message

from tests.probes.asking import GrpcCall, Request
from tests.probes.creates import (
    CONVERSATIONS,
    CREATES,
    ITEMS,
    RESPONSES,
    Members,
    Own,
    previous,
    referring,
)
from tests.probes.guesses import Kind
from tests.probes.route import Route, first_in, weight_of
from turnwire import json_codec
from turnwire.v1 import conversation_service_pb2 as rpc
from turnwire.v1 import items_pb2, responses_pb2
from turnwire.v1 import session_service_pb2 as sessions

Say = Callable[[str, Own], Message]
"""Makes a call's message of a name, and of what is the asker's own."""


def _by_call() -> Iterator[Route]:
    responses: Sequence[tuple[str, Say]] = (
        ("Get", lambda name, own: sessions.GetRequest(response_id=name)),
        ("Follow", lambda name, own: sessions.FollowRequest(response_id=name)),
        ("Delete", lambda name, own: sessions.DeleteRequest(response_id=name)),
        ("Cancel", lambda name, own: sessions.CancelRequest(response_id=name)),
        ("ListInputItems", lambda name, own: sessions.ListInputItemsRequest(response_id=name)),
    )
    for method, message in responses:
        yield _call("Session", method, RESPONSES, message)
    yield _call("Session", "ListInputItems", ITEMS, _own_input_after, "of his own, after")
    for create in CREATES:
        start = _call("Session", "Start", create.kinds, _started(create.members), create.name)
        yield replace(start, weight=weight_of(create))
    for what, kinds, members in (
        ("previous_response_id", RESPONSES, previous),
        ("item_reference", ITEMS, referring),
    ):
        yield _call("Session", "Compact", kinds, _compacted(members), what)
    yield from _on_conversations()


def _on_conversations() -> Iterator[Route]:
    for method, message in _NAMED.items():
        yield _call("Conversation", method, CONVERSATIONS, message)
    for (method, what), message in _BY_ITEM.items():
        yield _call("Conversation", method, ITEMS, message, what)


def _call(
    service: str,
    method: str,
    kinds: Sequence[Kind],
    message: Say,
    what: str = "",
) -> Route:
    """Return the route of a gRPC call."""
    file = sessions if service == "Session" else rpc
    descriptor = file.DESCRIPTOR.services_by_name[f"{service}Service"].methods_by_name[method]
    answer: type[Message] = getattr(file, descriptor.output_type.name)
    path = f"/{descriptor.containing_service.full_name}/{method}"

    def ask(name: str, own: Own) -> Request:
        return GrpcCall(path, message(name, own), answer, descriptor.server_streaming)

    return Route("gRPC call", f"{method} {what}".strip(), kinds, ask)


def _started(members: Callable[[str, Own], Members]) -> Say:
    return lambda name, own: sessions.StartRequest(create=_message(members(name, own)))


def _compacted(members: Callable[[str, Own], Members]) -> Say:
    return lambda name, own: sessions.CompactRequest(create=_message(members(name, own)))


def _message(members: Members) -> responses_pb2.CreateResponse:
    return json_codec.decode(responses_pb2.CreateResponse, json.dumps(members))


def _own_input_after(name: str, own: Own) -> Message:
    return sessions.ListInputItemsRequest(response_id=own.response, after=name)


def _refers(name: str) -> Sequence[items_pb2.Item]:
    return [items_pb2.Item(item_reference=items_pb2.ItemReference(id=name))]


_MINE = items_pb2.Item(message=items_pb2.Message(role="user", content_text="mine"))
_NAMED: Mapping[str, Say] = {
    "GetConversation": lambda name, own: rpc.GetConversationRequest(conversation_id=name),
    "UpdateConversation": lambda name, own: rpc.UpdateConversationRequest(
        conversation_id=name, metadata={"whose": "mine"}
    ),
    "DeleteConversation": lambda name, own: rpc.DeleteConversationRequest(conversation_id=name),
    "CreateItems": lambda name, own: rpc.CreateItemsRequest(conversation_id=name, items=[_MINE]),
    "ListItems": lambda name, own: rpc.ListItemsRequest(conversation_id=name),
    "GetItem": lambda name, own: rpc.GetItemRequest(conversation_id=name, item_id=first_in(name)),
    "DeleteItem": lambda name, own: rpc.DeleteItemRequest(
        conversation_id=name, item_id=first_in(name)
    ),
}
_BY_ITEM: Mapping[tuple[str, str], Say] = {
    ("CreateConversation", "item_reference"): lambda name, own: rpc.CreateConversationRequest(
        items=_refers(name)
    ),
    ("CreateItems", "item_reference to his own"): lambda name, own: rpc.CreateItemsRequest(
        conversation_id=own.conversation, items=_refers(name)
    ),
    ("ListItems", "of his own, after"): lambda name, own: rpc.ListItemsRequest(
        conversation_id=own.conversation, after=name
    ),
    ("GetItem", "of his own"): lambda name, own: rpc.GetItemRequest(
        conversation_id=own.conversation, item_id=name
    ),
    ("DeleteItem", "of his own"): lambda name, own: rpc.DeleteItemRequest(
        conversation_id=own.conversation, item_id=name
    ),
}
BY_CALL = tuple(_by_call())
