"""The gRPC face of conversations."""

from collections.abc import Sequence
from typing import Final

import grpc
from google.protobuf.message import Message

from service.engine import Engine
from service.errors import Refusal
from service.identity import Identity
from service.paging import Page
from transports.grpc_calls import Calls, as_json
from turnwire.v1 import conversation_service_pb2 as rpc

NAME = rpc.DESCRIPTOR.services_by_name["ConversationService"].full_name
_MOST_ITEMS: Final = 20


class ConversationService:
    """The calls of the contract, each one call of the engine's."""

    def __init__(self, engine: Engine, calls: Calls) -> None:
        self._engine = engine
        self._conversations = engine.conversations
        self._calls = calls

    def handler(self) -> grpc.GenericRpcHandler:
        """Return the calls, for a server to offer."""
        unary = self._calls.small_unary
        calls = {
            "CreateConversation": unary(rpc.CreateConversationRequest, self._create),
            "GetConversation": unary(rpc.GetConversationRequest, self._get),
            "UpdateConversation": unary(rpc.UpdateConversationRequest, self._update),
            "DeleteConversation": unary(rpc.DeleteConversationRequest, self._delete),
            "CreateItems": unary(rpc.CreateItemsRequest, self._create_items),
            "ListItems": unary(rpc.ListItemsRequest, self._list_items),
            "GetItem": unary(rpc.GetItemRequest, self._get_item),
            "DeleteItem": unary(rpc.DeleteItemRequest, self._delete_item),
        }
        return grpc.method_handlers_generic_handler(NAME, calls)

    async def _create(
        self, caller: Identity, request: rpc.CreateConversationRequest
    ) -> rpc.CreateConversationResponse:
        self._engine.admit()
        _check_count(request.items)
        conversation = await self._conversations.create(caller.tenant, as_json(request))
        return rpc.CreateConversationResponse(conversation=conversation)

    async def _get(
        self, caller: Identity, request: rpc.GetConversationRequest
    ) -> rpc.GetConversationResponse:
        conversation = await self._conversations.get(caller.tenant, request.conversation_id)
        return rpc.GetConversationResponse(conversation=conversation)

    async def _update(
        self, caller: Identity, request: rpc.UpdateConversationRequest
    ) -> rpc.UpdateConversationResponse:
        self._engine.admit()
        conversation = await self._conversations.update(caller.tenant, as_json(request))
        return rpc.UpdateConversationResponse(conversation=conversation)

    async def _delete(
        self, caller: Identity, request: rpc.DeleteConversationRequest
    ) -> rpc.DeleteConversationResponse:
        self._engine.admit()
        return await self._conversations.delete(caller.tenant, request.conversation_id)

    async def _create_items(
        self, caller: Identity, request: rpc.CreateItemsRequest
    ) -> rpc.CreateItemsResponse:
        self._engine.admit()
        _check_count(request.items)
        added = await self._conversations.add_items(caller.tenant, as_json(request))
        return rpc.CreateItemsResponse(list=added)

    async def _list_items(
        self, caller: Identity, request: rpc.ListItemsRequest
    ) -> rpc.ListItemsResponse:
        page = Page(request.after, request.limit, request.order)
        items = await self._conversations.items(caller.tenant, request.conversation_id, page)
        return rpc.ListItemsResponse(list=items)

    async def _get_item(self, caller: Identity, request: rpc.GetItemRequest) -> rpc.GetItemResponse:
        item = await self._conversations.item(
            caller.tenant, request.conversation_id, request.item_id
        )
        return rpc.GetItemResponse(item=item)

    async def _delete_item(
        self, caller: Identity, request: rpc.DeleteItemRequest
    ) -> rpc.DeleteItemResponse:
        self._engine.admit()
        names = (request.conversation_id, request.item_id)
        conversation = await self._conversations.delete_item(caller.tenant, *names)
        return rpc.DeleteItemResponse(conversation=conversation)


def _check_count(items: Sequence[Message]) -> None:
    """Refuse very many items before any of them is looked at."""
    if len(items) > _MOST_ITEMS:
        message = f"At most {_MOST_ITEMS} items may be added at once."
        raise Refusal("invalid_value", message, "items")
