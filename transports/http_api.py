"""The HTTP face: the resources of the Responses API and of conversations, and what each method does.

A create is one connection of the engine with one turn; everything else asks the engine once.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, TypeAlias

from google.protobuf.message import Message
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from service.engine import Engine
from service.errors import NotFound, Refusal
from service.moderation.answers import answer
from transports.endpoint import Endpoint
from transports.errand import run_errand
from transports.following import follow
from transports.http_exchange import Collected, while_there
from transports.http_resource import Call, Handler, Resource, not_found
from transports.http_stream import Playback, Streamed
from transports.refusals import SMALL
from transports.tickets import ticket_routes
from turnwire.delta import Event
from turnwire.v1 import conversation_service_pb2, events_pb2, responses_pb2

Resources: TypeAlias = Mapping[str, Mapping[str, Handler]]
"""Handlers by path and method."""

_PREFIXES: Final = ("/v1", "")


class UpgradeRequired(Refusal):
    """The resource is a WebSocket."""

    status = 426
    headers = MappingProxyType({"Upgrade": "websocket", "Connection": "Upgrade"})

    def __init__(self) -> None:
        super().__init__(
            "upgrade_required",
            "This is a WebSocket: connect to it with a WebSocket client (wss:// or ws://). "
            "Without one, POST asks for a response.",
        )


def api(endpoint: Endpoint) -> Starlette:
    """Return the HTTP face."""
    tables = (Responses(endpoint.engine), Models(endpoint.engine), Conversations(endpoint.engine))
    resources = {path: methods for table in tables for path, methods in table.resources().items()}
    routes = [
        Route(prefix + path, Resource(endpoint, methods))
        for prefix in _PREFIXES
        for path, methods in resources.items()
    ]
    app = Starlette(
        routes=[*ticket_routes(endpoint), *routes], exception_handlers={404: not_found(endpoint)}
    )
    app.router.redirect_slashes = False
    return app


class Responses:
    """Responses: made, told again, cancelled, deleted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def resources(self) -> Resources:
        """Return the paths and their methods. The first that matches a request answers it."""
        return {
            "/responses": {"GET": self._upgrade, "POST": self._create},
            "/responses/compact": {"POST": self._compact},
            "/responses/{response_id}": {"GET": self._get, "DELETE": self._delete},
            "/responses/{response_id}/cancel": {"POST": self._cancel},
            "/responses/{response_id}/input_items": {"GET": self._input_items},
            "/moderations": {"POST": self._moderate},
        }

    async def _upgrade(self, call: Call) -> ASGIApp:
        del call
        raise UpgradeRequired

    async def _create(self, call: Call) -> ASGIApp:
        create = _without_lane(await call.read(responses_pb2.CreateResponse))
        if key := call.request.headers.get("Idempotency-Key"):
            create.idempotency_key = key
        if create.settings.background:
            return await self._start(call, create)
        exchange = _streamed(call) if create.stream else _collected(call)
        connection = self._engine.connect(call.caller, "http", exchange)
        exchange.source = connection
        connection.receive(events_pb2.ClientEvent(create=create))
        return exchange

    async def _start(self, call: Call, create: responses_pb2.CreateResponse) -> ASGIApp:
        response = await self._engine.start(call.caller, create)
        if not create.stream:
            return call.said(response)
        return _played(call, await follow(self._engine, call.caller, response.id, None))

    async def _get(self, call: Call) -> ASGIApp:
        response_id = call.named("response_id")
        if not call.switch("stream"):
            return call.said(await self._engine.responses.get(call.tenant, response_id))
        after = call.number("starting_after")
        return _played(call, await follow(self._engine, call.caller, response_id, after))

    async def _delete(self, call: Call) -> ASGIApp:
        response_id = call.named("response_id")
        return call.said(await self._engine.responses.delete(call.tenant, response_id))

    async def _cancel(self, call: Call) -> ASGIApp:
        response_id = call.named("response_id")
        return call.said(await self._engine.responses.cancel(call.tenant, response_id))

    async def _input_items(self, call: Call) -> ASGIApp:
        response_id, page = call.named("response_id"), call.page()
        return call.said(await self._engine.responses.input_items(call.tenant, response_id, page))

    async def _moderate(self, call: Call) -> ASGIApp:
        body = await call.body.read(min(SMALL, call.limits.message_bytes))
        self._engine.tenants.of(call.tenant).take(len(body))
        moderator = self._engine.moderator
        told = await run_errand(
            self._engine, call.caller, "http", lambda: answer(moderator, call.tenant, body)
        )
        return Response(told, media_type="application/json")

    async def _compact(self, call: Call) -> ASGIApp:
        create = _without_lane(await call.read(responses_pb2.CreateResponse))

        async def compact() -> Message:
            return await self._engine.responses.compact(call.tenant, create)

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            work = run_errand(self._engine, call.caller, "http", compact)
            await call.said(await while_there(receive, work))(scope, receive, send)

        return answer


class Models:
    """The models there are."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def resources(self) -> Resources:
        """Return the paths and their methods. Names of models may have slashes."""
        return {"/models": {"GET": self._list}, "/models/{model:path}": {"GET": self._get}}

    async def _list(self, call: Call) -> ASGIApp:
        return call.said(self._engine.models())

    async def _get(self, call: Call) -> ASGIApp:
        name = call.named("model")
        for model in self._engine.models().models:
            if model.id == name:
                return call.said(model)
        raise NotFound("model_not_found", f"Model '{name[:64]}' not found.", "model")


class Conversations:
    """Conversations and their items."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def resources(self) -> Resources:
        """Return the paths and their methods."""
        return {
            "/conversations": {"POST": self._create},
            "/conversations/{conversation_id}": {
                "GET": self._get,
                "POST": self._update,
                "DELETE": self._delete,
            },
            "/conversations/{conversation_id}/items": {
                "GET": self._items,
                "POST": self._add_items,
            },
            "/conversations/{conversation_id}/items/{item_id}": {
                "GET": self._item,
                "DELETE": self._delete_item,
            },
        }

    async def _create(self, call: Call) -> ASGIApp:
        self._engine.admit()
        request = await call.read_small(conversation_service_pb2.CreateConversationRequest)
        return call.said(await self._engine.conversations.create(call.tenant, request))

    async def _get(self, call: Call) -> ASGIApp:
        conversation_id = call.named("conversation_id")
        return call.said(await self._engine.conversations.get(call.tenant, conversation_id))

    async def _update(self, call: Call) -> ASGIApp:
        self._engine.admit()
        request = await call.read_small(conversation_service_pb2.UpdateConversationRequest)
        request.conversation_id = call.named("conversation_id")
        return call.said(await self._engine.conversations.update(call.tenant, request))

    async def _delete(self, call: Call) -> ASGIApp:
        self._engine.admit()
        conversation_id = call.named("conversation_id")
        return call.said(await self._engine.conversations.delete(call.tenant, conversation_id))

    async def _items(self, call: Call) -> ASGIApp:
        conversation_id, page = call.named("conversation_id"), call.page()
        return call.said(await self._engine.conversations.items(call.tenant, conversation_id, page))

    async def _add_items(self, call: Call) -> ASGIApp:
        self._engine.admit()
        request = await call.read_small(conversation_service_pb2.CreateItemsRequest)
        request.conversation_id = call.named("conversation_id")
        return call.said(await self._engine.conversations.add_items(call.tenant, request))

    async def _item(self, call: Call) -> ASGIApp:
        conversation_id, item_id = call.named("conversation_id"), call.named("item_id")
        return call.said(
            await self._engine.conversations.item(call.tenant, conversation_id, item_id)
        )

    async def _delete_item(self, call: Call) -> ASGIApp:
        self._engine.admit()
        conversation_id, item_id = call.named("conversation_id"), call.named("item_id")
        return call.said(
            await self._engine.conversations.delete_item(call.tenant, conversation_id, item_id)
        )


def _played(call: Call, batches: AsyncGenerator[Sequence[Event], None]) -> Streamed:
    stream = _streamed(call)
    stream.source = Playback(batches, stream)
    return stream


def _streamed(call: Call) -> Streamed:
    return Streamed(call.client, call.limits)


def _collected(call: Call) -> Collected:
    return Collected(call.client, call.tenant, call.endpoint.large_answers)


def _without_lane(create: responses_pb2.CreateResponse) -> responses_pb2.CreateResponse:
    """Refuse a lane: requests are side by side anyway, and nothing would tell their events apart."""
    if json.loads(create.extra_json or "{}").get("stream_id") is not None:
        raise Refusal("invalid_value", "'stream_id' is for connections only.", "stream_id")
    return create
