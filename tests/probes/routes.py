"""Every way to name a thing of a tenant's, over every transport."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from tests.probes.asking import Event, HttpRequest, Request
from tests.probes.calls import BY_CALL
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
from tests.probes.route import SELDOM, Ask, Route, first_in, weight_of

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
    yield Route("HTTP", "POST /responses Idempotency-Key", (Kind.KEY,), _keyed, SELDOM)


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
    return Route(transport, f"{what} {create.name}", create.kinds, ask, weight_of(create))


def _keyed(name: str, own: Own) -> Request:
    body = dict(with_key(name, own))
    return HttpRequest("POST", "/responses", body, {"Idempotency-Key": body.pop("idempotency_key")})


def _background(members: Callable[[str, Own], Members]) -> Callable[[str, Own], Members]:
    return lambda name, own: {**members(name, own), "background": True}


def _streamed(members: Callable[[str, Own], Members]) -> Callable[[str, Own], Members]:
    return lambda name, own: {**members(name, own), "stream": True}


ROUTES = (*_over_http(), *_on_connections(), *BY_CALL)
