"""A tenant's client of the API, by JSON; and what a tenant has."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx

from tests.probes.creates import MODEL, SAID, Own
from tests.probes.route import first_in
from tests.replicas.clients import api
from tests.replicas.replica import Address

Json = Mapping[str, Any]


class Told(NamedTuple):
    """An answer as it came."""

    status: int
    body: bytes


class Customer:
    """Asks as one tenant, for what is to succeed."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def ask(self, **members: Any) -> Json:
        """Have a response made."""
        return await self.post("/responses", {"model": MODEL, **members})

    async def post(self, path: str, body: Json) -> Json:
        """Post, and return what was answered."""
        answer = await self._client.post(path, json=body)
        assert answer.is_success, answer.text
        told: Json = answer.json()
        return told

    async def attempt(self, path: str, body: Json) -> Json:
        """Post what may be refused; return nothing then."""
        answer = await self._client.post(path, json=body)
        told: Json = answer.json() if answer.is_success else {}
        return told

    async def delete(self, path: str) -> None:
        """Delete what is at a path."""
        answer = await self._client.delete(path)
        assert answer.is_success, answer.text

    async def look(self, path: str) -> Told:
        """Return what there is at a path, whatever that is."""
        answer = await self._client.get(path)
        return Told(answer.status_code, answer.content)

    async def begin_conversation(self) -> str:
        """Begin a conversation with an item, and have a response made in it."""
        said = [{"type": "message", "role": "user", "content": "for me only"}]
        made = await self.post("/conversations", {"items": said, "metadata": {"whose": "mine"}})
        await self.ask(conversation=made["id"], input="go on")
        conversation: str = made["id"]
        return conversation

    async def furnished(self) -> Own:
        """Make a little of everything, and say once what will be said in probes."""
        for said in SAID:
            await self.ask(input=said)
        response = await self.ask(input="what only I know")
        conversation = await self.begin_conversation()
        [item] = items_of(response)
        return Own(response["id"], item, conversation, first_in(conversation))


@asynccontextmanager
async def customer(address: Address, key: str) -> AsyncIterator[Customer]:
    """Be a client with this key."""
    async with api(address, {"Authorization": f"Bearer {key}"}) as client:
        yield Customer(client)


def items_of(response: Json) -> Sequence[str]:
    """Return the ids of a response's output."""
    return [item["id"] for item in response["output"]]
