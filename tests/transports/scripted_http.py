"""The engine's port as the HTTP face uses it: answers what a test says, and notes what it is asked."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import httpx

from service.connection import Sink
from service.errors import NotFound
from service.identity import Identity
from service.paging import Page
from tests.transports.scripted import RawClient, Script, ScriptedConnection, ScriptedEngine, text
from turnwire.delta import Event
from turnwire.v1 import (
    conversation_service_pb2,
    events_pb2,
    items_pb2,
    responses_pb2,
    session_service_pb2,
)

RESPONSE = responses_pb2.Response(id="resp_1", object="response", status="completed")
ITEMS = items_pb2.ItemList(object="list")
CONVERSATION = conversation_service_pb2.Conversation(id="conv_1", object="conversation")
ITEM = items_pb2.Item(message=items_pb2.Message(id="msg_1", role="user"))


def completed() -> events_pb2.ServerEvent:
    event = events_pb2.ResponseEvent(response=RESPONSE)
    return events_pb2.ServerEvent(sequence_number=1, completed=event)


def whole_turn(connection: ScriptedConnection, event: events_pb2.ClientEvent) -> None:
    """Answer with a delta and the end."""
    del event
    connection.sink.deliver([text("hello"), completed()])


def nothing(connection: ScriptedConnection, event: events_pb2.ClientEvent) -> None:
    """Let the test answer."""


class Calls:
    """One of the engine's services: notes its calls, and answers each by its name."""

    def __init__(self, **answers: Any) -> None:
        self.made: list[tuple[Any, ...]] = []
        self.answers = answers

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            self.made.append((name, *arguments))
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return await answer(*arguments) if callable(answer) else answer

        return call


class HttpConnection(ScriptedConnection):
    """A connection whose turns end with what the script says."""

    async def finished(self) -> None:
        """Return: a script has no tasks."""


class HttpEngine(ScriptedEngine):
    """The engine's port, for one transport."""

    def __init__(self, script: Script = whole_turn) -> None:
        super().__init__(script)
        self.batches: asyncio.Queue[Sequence[Event] | Exception | None] = asyncio.Queue()
        self.follower_left = asyncio.Event()
        self.responses = Calls(
            get=RESPONSE,
            delete=session_service_pb2.DeleteResponse(
                response_id="resp_1", object="response", deleted=True
            ),
            cancel=RESPONSE,
            input_items=ITEMS,
            follow=self._follow,
            compact=session_service_pb2.CompactResponse(id="cmp_1", object="response.compaction"),
        )
        self.conversations = Calls(
            create=CONVERSATION,
            get=CONVERSATION,
            update=CONVERSATION,
            delete=conversation_service_pb2.DeleteConversationResponse(id="conv_1", deleted=True),
            items=ITEMS,
            add_items=ITEMS,
            item=ITEM,
            delete_item=CONVERSATION,
        )
        self.started: list[responses_pb2.CreateResponse] = []

    def connect(self, caller: Identity, transport: str, sink: Sink) -> ScriptedConnection:
        assert transport == "http"
        if self.refusal is not None:
            raise self.refusal
        connection = HttpConnection(caller.tenant, sink, self.script)
        self.connections.put_nowait(connection)
        return connection

    def welcomes(self, caller: Identity) -> bool:
        return bool(caller.tenant)

    def admit(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    async def start(
        self, caller: Identity, create: responses_pb2.CreateResponse
    ) -> responses_pb2.Response:
        self.started.append(create)
        return responses_pb2.Response(id="resp_1", object="response", status="queued")

    def models(self) -> session_service_pb2.ListModelsResponse:
        model = session_service_pb2.Model(id="org/model", owned_by="simulator", object="model")
        return session_service_pb2.ListModelsResponse(object="list", models=[model])

    async def _follow(
        self, tenant: str, response_id: str, starting_after: int | None
    ) -> AsyncGenerator[Sequence[Event], None]:
        del tenant, starting_after
        if response_id != "resp_1":
            raise NotFound("not_found", "Response not found.", "response_id")
        return self._play()

    async def _play(self) -> AsyncGenerator[Sequence[Event], None]:
        try:
            while (batch := await self.batches.get()) is not None:
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        finally:
            self.follower_left.set()


def page(after: str = "", limit: int = 0, order: str = "") -> Page:
    return Page(after, limit, order)


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """Write a request as it is on the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers, "", ""]).encode() + body


async def chunk(client: RawClient) -> bytes:
    """Read one chunk of a chunked answer: what the server wrote at once."""
    async with asyncio.timeout(5):
        size = int(await client._reader.readuntil(b"\r\n"), 16)
        return (await client._reader.readexactly(size + 2))[:-2]


async def said(answer: httpx.Response) -> list[dict[str, Any]]:
    """Return the events of a stream of server-sent events that has ended."""
    frames = (await answer.aread()).decode().split("\n\n")
    return [json.loads(frame.partition("data: ")[2]) for frame in frames if "data: {" in frame]


@contextlib.asynccontextmanager
async def client_of(port: int, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, trust_env=False, timeout=10, **options) as client:
        yield client
