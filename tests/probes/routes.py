"""Every way to name a thing of a tenant's, over every transport."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from google.protobuf.message import Message

from tests.probes.asking import Event, GrpcCall, HttpRequest, Request
from tests.probes.creates import (
    CONVERSATIONS,
    CREATES,
    ITEMS,
    RESPONSES,
    Create,
    Members,
    Own,
    in_conversation,
    previous,
    reference,
    referring,
    with_key,
    with_sealed,
)
from tests.probes.guesses import Kind
from turnwire import json_codec
from turnwire.v1 import conversation_service_pb2 as conversations
from turnwire.v1 import items_pb2, responses_pb2
from turnwire.v1 import session_service_pb2 as sessions

_SELDOM = 1
_OFTEN = 4
Ask = Callable[[str, Own], Request]
"""Takes a name, and what is the asker's own."""


@dataclass(frozen=True, slots=True)
class Route:
    """A way to ask about a name."""

    transport: str
    name: str
    kinds: Sequence[Kind]
    request: Ask
    weight: int = _OFTEN
    """How often it is taken: seldom where a turn is made whatever the name."""


_AT: Mapping[str, Sequence[Kind]] = {
    "GET /responses/{name}": RESPONSES,
    "GET /responses/{name}?stream=true": RESPONSES,
    "GET /responses/{name}?stream=true&starting_after=1": RESPONSES,
    "DELETE /responses/{name}": RESPONSES,
    "POST /responses/{name}/cancel": RESPONSES,
    "GET /responses/{name}/input_items": RESPONSES,
    "GET /responses/{own.response}/input_items?after={name}": ITEMS,
    "GET /conversations/{name}": CONVERSATIONS,
    "DELETE /conversations/{name}": CONVERSATIONS,
    "GET /conversations/{name}/items": CONVERSATIONS,
    "GET /conversations/{name}/items/{first}": CONVERSATIONS,
    "DELETE /conversations/{name}/items/{first}": CONVERSATIONS,
    "GET /conversations/{own.conversation}/items?after={name}": ITEMS,
    "GET /conversations/{own.conversation}/items/{name}": ITEMS,
    "DELETE /conversations/{own.conversation}/items/{name}": ITEMS,
}
_ADDED: Members = {"items": [{"type": "message", "role": "user", "content": "mine"}]}


def _over_http() -> Iterator[Route]:
    for line, kinds in _AT.items():
        yield Route("HTTP", line, kinds, _at(line))
    for create in CREATES:
        yield _of_create("HTTP", "POST /responses", create, _posting)
    yield from _other_posts()


def _other_posts() -> Iterator[Route]:
    """Yield what has a body and is no plain create."""

    def changed(name: str, own: Own) -> Members:
        del name, own
        return {"metadata": {"whose": "mine"}}

    def added(name: str, own: Own) -> Members:
        del name, own
        return _ADDED

    def referred(name: str, own: Own) -> Members:
        del own
        return {"items": reference(name)}

    posts: Sequence[tuple[str, str, Sequence[Kind], Callable[[str, Own], Members]]] = (
        ("/conversations/{name}", "", CONVERSATIONS, changed),
        ("/conversations/{name}/items", "", CONVERSATIONS, added),
        ("/conversations", "item_reference", ITEMS, referred),
        ("/conversations/{own.conversation}/items", "item_reference", ITEMS, referred),
        ("/responses/compact", "previous_response_id", RESPONSES, previous),
        ("/responses/compact", "item_reference", ITEMS, referring),
        ("/responses/compact", "sealed compaction", (Kind.SEALED,), with_sealed),
        ("/responses", "background, previous_response_id", RESPONSES, _background(previous)),
        ("/responses", "background, conversation", CONVERSATIONS, _background(in_conversation)),
        ("/responses", "stream, previous_response_id", RESPONSES, _streamed(previous)),
    )
    for path, what, kinds, body in posts:
        yield Route("HTTP", f"POST {path} {what}".strip(), kinds, _posting(path, body))
    yield Route("HTTP", "POST /responses Idempotency-Key", (Kind.KEY,), _keyed, _SELDOM)


def _on_connections() -> Iterator[Route]:
    for transport in ("WebSocket", "gRPC Connect"):
        for create in CREATES:
            yield _of_create(transport, "response.create", create, _sending)
        for kind, member, more in (
            ("response.steer", "previous_response_id", {"input": "and?"}),
            ("response.interrupt", "response_id", {}),
            ("response.resume", "response_id", {}),
            ("response.resume", "response_id", {"starting_after": 1}),
        ):
            told = f"{kind} {' '.join(more)}".strip()
            yield Route(transport, told, RESPONSES, _naming(kind, member, more))


def _by_call() -> Iterator[Route]:
    responses: Sequence[tuple[str, Callable[[str, Own], Message]]] = (
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
        yield replace(start, weight=_weight(create))
    for what, kinds, members in (
        ("previous_response_id", RESPONSES, previous),
        ("item_reference", ITEMS, referring),
    ):
        yield _call("Session", "Compact", kinds, _compacted(members), what)
    yield from _on_conversations()


def _on_conversations() -> Iterator[Route]:
    named: Sequence[tuple[str, Callable[[str, Own], Message]]] = (
        ("GetConversation", lambda name, own: _C.GetConversationRequest(conversation_id=name)),
        (
            "UpdateConversation",
            lambda name, own: _C.UpdateConversationRequest(
                conversation_id=name, metadata={"whose": "mine"}
            ),
        ),
        (
            "DeleteConversation",
            lambda name, own: _C.DeleteConversationRequest(conversation_id=name),
        ),
        (
            "CreateItems",
            lambda name, own: _C.CreateItemsRequest(conversation_id=name, items=[_MINE]),
        ),
        ("ListItems", lambda name, own: _C.ListItemsRequest(conversation_id=name)),
        (
            "GetItem",
            lambda name, own: _C.GetItemRequest(conversation_id=name, item_id=first_in(name)),
        ),
        (
            "DeleteItem",
            lambda name, own: _C.DeleteItemRequest(conversation_id=name, item_id=first_in(name)),
        ),
    )
    for method, message in named:
        yield _call("Conversation", method, CONVERSATIONS, message)
    items: Sequence[tuple[str, str, Callable[[str, Own], Message]]] = (
        (
            "CreateConversation",
            "item_reference",
            lambda name, own: _C.CreateConversationRequest(items=_refers(name)),
        ),
        (
            "CreateItems",
            "item_reference to his own",
            lambda name, own: _C.CreateItemsRequest(
                conversation_id=own.conversation, items=_refers(name)
            ),
        ),
        (
            "ListItems",
            "of his own, after",
            lambda name, own: _C.ListItemsRequest(conversation_id=own.conversation, after=name),
        ),
        (
            "GetItem",
            "of his own",
            lambda name, own: _C.GetItemRequest(conversation_id=own.conversation, item_id=name),
        ),
        (
            "DeleteItem",
            "of his own",
            lambda name, own: _C.DeleteItemRequest(conversation_id=own.conversation, item_id=name),
        ),
    )
    for method, what, message in items:
        yield _call("Conversation", method, ITEMS, message, what)


def first_in(conversation: str) -> str:
    """Return what the first item of a conversation is called."""
    return f"msg_{conversation.rpartition('_')[2]}i0"


def _at(line: str) -> Ask:
    method, _, path = line.partition(" ")

    def ask(name: str, own: Own) -> Request:
        return HttpRequest(method, path.format(name=name, own=own, first=first_in(name)))

    return ask


def _posting(path: str, body: Callable[[str, Own], Members]) -> Ask:
    def ask(name: str, own: Own) -> Request:
        return HttpRequest("POST", path.format(name=name, own=own), body(name, own))

    return ask


def _sending(kind: str, members: Callable[[str, Own], Members]) -> Ask:
    return lambda name, own: Event({"type": kind, **members(name, own)})


def _naming(kind: str, member: str, more: Members) -> Ask:
    return lambda name, own: Event({"type": kind, member: name, **more})


def _of_create(
    transport: str,
    what: str,
    create: Create,
    asking: Callable[[str, Callable[[str, Own], Members]], Ask],
) -> Route:
    """Return a route on which a create is sent."""
    ask = asking(what.rpartition(" ")[2], create.members)
    return Route(transport, f"{what} {create.name}", create.kinds, ask, _weight(create))


def _weight(create: Create) -> int:
    return _SELDOM if create.makes_a_turn else _OFTEN


def _keyed(name: str, own: Own) -> Request:
    body = dict(with_key(name, own))
    return HttpRequest("POST", "/responses", body, {"Idempotency-Key": body.pop("idempotency_key")})


def _background(members: Callable[[str, Own], Members]) -> Callable[[str, Own], Members]:
    return lambda name, own: {**members(name, own), "background": True}


def _streamed(members: Callable[[str, Own], Members]) -> Callable[[str, Own], Members]:
    return lambda name, own: {**members(name, own), "stream": True}


def _call(
    service: str,
    method: str,
    kinds: Sequence[Kind],
    message: Callable[[str, Own], Message],
    what: str = "",
) -> Route:
    """Return the route of a gRPC call."""
    file = sessions if service == "Session" else conversations
    descriptor = file.DESCRIPTOR.services_by_name[f"{service}Service"].methods_by_name[method]
    answer: type[Message] = getattr(file, descriptor.output_type.name)
    path = f"/{descriptor.containing_service.full_name}/{method}"

    def ask(name: str, own: Own) -> Request:
        return GrpcCall(path, message(name, own), answer, descriptor.server_streaming)

    return Route("gRPC call", f"{method} {what}".strip(), kinds, ask)


def _started(members: Callable[[str, Own], Members]) -> Callable[[str, Own], Message]:
    return lambda name, own: sessions.StartRequest(create=_message(members(name, own)))


def _compacted(members: Callable[[str, Own], Members]) -> Callable[[str, Own], Message]:
    return lambda name, own: sessions.CompactRequest(create=_message(members(name, own)))


def _message(members: Members) -> responses_pb2.CreateResponse:
    return json_codec.decode(responses_pb2.CreateResponse, json.dumps(members))


def _own_input_after(name: str, own: Own) -> Message:
    return sessions.ListInputItemsRequest(response_id=own.response, after=name)


def _refers(name: str) -> Sequence[items_pb2.Item]:
    return [items_pb2.Item(item_reference=items_pb2.ItemReference(id=name))]


_C = conversations
_MINE = items_pb2.Item(message=items_pb2.Message(role="user", content_text="mine"))
ROUTES = (*_over_http(), *_on_connections(), *_by_call())
