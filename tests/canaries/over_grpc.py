"""What a client says over gRPC."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from service.errors import Refusal
from tests.canaries.speech import frame
from tests.canaries.talking import LIMIT, SLOW, STALLED, Speaker, in_time, is_last
from turnwire import json_codec
from turnwire.v1 import conversation_service_pb2 as conversations
from turnwire.v1 import conversation_service_pb2_grpc as conversation_stubs
from turnwire.v1 import events_pb2, responses_pb2
from turnwire.v1 import session_service_pb2 as rpc
from turnwire.v1 import session_service_pb2_grpc as stubs

_CONNECT = "/turnwire.v1.SessionService/Connect"
_Stream = "grpc.aio.StreamStreamCall[rpc.ConnectRequest, rpc.ConnectResponse]"
Metadata = tuple[tuple[str, str], ...]


async def speak(speaker: Speaker) -> None:
    """Say everything."""
    async with _channel(speaker) as channel:
        talk = Talk(speaker, channel)
        await speaker.have_turns(talk.ask)
        await speaker.be_refused(talk.ask)
        for broken in (_unary, _bytes_of_no_message, _unknown_method, _not_let_in):
            await broken(speaker, channel)


async def direct(speaker: Speaker) -> None:
    """Steer a turn and leave one: the model goes on for as long as it is told to."""
    async with _channel(speaker) as channel:
        talk = Talk(speaker, channel)
        await talk.steer()
        await talk.begin(STALLED)
        talk.vanish()


@asynccontextmanager
async def stalled(speaker: Speaker) -> AsyncIterator[None]:
    """Have a turn that does not end, for as long as the context lasts."""
    async with _channel(speaker) as channel:
        talk = Talk(speaker, channel)
        await talk.begin(STALLED)
        yield
        await talk.leave()


class Talk:
    """One stream."""

    def __init__(self, speaker: Speaker, channel: grpc.aio.Channel) -> None:
        self._speaker = speaker
        self._call = stubs.SessionServiceStub(channel).Connect(metadata=_metadata(speaker))
        self._waiting: list[dict[str, Any]] = []

    async def ask(self, members: dict[str, Any]) -> dict[str, Any]:
        """Have one turn. What has no typed form cannot be said here."""
        try:
            event = json_codec.decode(events_pb2.ClientEvent, frame(members))
        except (Refusal, ValueError):
            return {"type": "not said"}
        await self._call.write(rpc.ConnectRequest(events=[event]))
        return await self.hear()

    async def begin(self, text: str) -> str:
        """Begin a turn; return its id once it says something."""
        created = self._speaker.speech.create(text, tools=[])
        event = json_codec.decode(events_pb2.ClientEvent, frame(created))
        await self._call.write(rpc.ConnectRequest(events=[event]))
        begun = await self.hear("response.created")
        await self.hear("response.output_text.delta")
        return str(begun["response"]["id"])

    async def hear(self, kind: str = "") -> dict[str, Any]:
        """Receive up to an event of a kind, or the end of a turn."""
        async with in_time():
            while True:
                while self._waiting:
                    event = self._waiting.pop(0)
                    if event["type"] == kind or (not kind and is_last(event)):
                        return event
                answer = await self._call.read()
                assert isinstance(answer, rpc.ConnectResponse)
                self._waiting += [json.loads(json_codec.encode(event)) for event in answer.events]

    async def steer(self) -> None:
        """Steer a turn; another follows."""
        response_id = await self.begin(SLOW)
        said = self._speaker.speech.text("steering")
        steer = events_pb2.SteerResponse(previous_response_id=response_id, input_text=said)
        await self._call.write(rpc.ConnectRequest(events=[events_pb2.ClientEvent(steer=steer)]))
        assert (await self.hear())["response"]["incomplete_details"]["reason"] == "steered"
        await self.hear()
        self._speaker.ended.add("steered")

    def vanish(self) -> None:
        """Leave without a word."""
        self._call.cancel()

    async def leave(self) -> None:
        """Note how the server ends the stream."""
        async with in_time():
            with suppress(grpc.aio.AioRpcError):
                while await self._call.read() is not grpc.aio.EOF:
                    pass
            self._speaker.refused(
                (await self._call.details(), await self._call.trailing_metadata())
            )


@asynccontextmanager
async def _channel(speaker: Speaker) -> AsyncIterator[grpc.aio.Channel]:
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.primary_user_agent", speaker.speech.word("user agent")),
    ]
    async with grpc.aio.insecure_channel(speaker.address.grpc_target, options=options) as channel:
        yield channel


def _metadata(speaker: Speaker) -> Metadata:
    word = speaker.speech.word
    return (
        ("authorization", f"Bearer {speaker.key}"),
        (word("name of metadata").lower(), word("metadata of a call")),
        ("traceparent", word("traceparent")),
    )


async def _unary(speaker: Speaker, channel: grpc.aio.Channel) -> None:
    """Ask for what is not there, by all calls."""
    sessions = stubs.SessionServiceStub(channel)
    kept = conversation_stubs.ConversationServiceStub(channel)
    for request in _requests(speaker):
        method = type(request).__name__.removesuffix("Request")
        called = getattr(sessions, method, None) or getattr(kept, method)
        await _refused(speaker, called, request)


def _requests(speaker: Speaker) -> Iterator[Message]:
    word = speaker.speech.word
    asked = frame({**speaker.speech.create(), "model": word("model")})
    create = json_codec.decode(events_pb2.ClientEvent, asked).create
    yield rpc.GetRequest(response_id=word("response_id"))
    yield rpc.DeleteRequest(response_id=f"resp_{word('response_id')}")
    yield rpc.CancelRequest(response_id=word("response_id"))
    yield rpc.ListInputItemsRequest(
        response_id=word("response_id"), after=word("after"), order=word("order")
    )
    yield rpc.StartRequest(create=create)
    yield rpc.CompactRequest(create=create)
    yield conversations.GetConversationRequest(conversation_id=word("conversation_id"))
    yield conversations.DeleteConversationRequest(conversation_id=word("conversation_id"))
    yield conversations.GetItemRequest(
        conversation_id=word("conversation_id"), item_id=word("item_id")
    )
    metadata = {word("metadata"): word("metadata")}
    yield conversations.UpdateConversationRequest(
        conversation_id=word("conversation_id"), metadata=metadata
    )


async def _refused(speaker: Speaker, call: Any, request: Message) -> None:
    try:
        await call(request, metadata=_metadata(speaker), timeout=20)
    except grpc.aio.AioRpcError as error:
        speaker.refused((error.details(), error.debug_error_string(), error.trailing_metadata()))
        speaker.ended.add(f"refused: {error.code().name}")


async def _bytes_of_no_message(speaker: Speaker, channel: grpc.aio.Channel) -> None:
    """Send what is no protobuf, and one that is too large."""
    word = speaker.speech.word
    huge = responses_pb2.CreateResponse(input_text=word("oversized message") + "x" * LIMIT)
    event = events_pb2.ClientEvent(create=huge)
    for data in (
        b"\xff\xff\xff" + word("no protobuf").encode(),
        b"\x0a\x7f" + word("protobuf that ends early").encode(),
        b"\x0a\x04\x12\x02\x0a\xff" + word("invalid UTF-8").encode() + b"\xff",
        rpc.ConnectRequest(events=[event]).SerializeToString(),
    ):
        connect: Any = channel.stream_stream(_CONNECT)
        await _sent(speaker, connect(metadata=_metadata(speaker)), data)
    get: Any = channel.unary_unary("/turnwire.v1.SessionService/Get")
    await _refused_raw(speaker, get, b"\xff\xff" + word("no protobuf").encode())


async def _sent(speaker: Speaker, call: Any, data: object) -> None:
    """Say one thing on a stream; keep what comes back, and how it ends."""
    async with in_time():
        with suppress(grpc.aio.AioRpcError):
            await call.write(data)
            await call.done_writing()
            while (answer := await call.read()) is not grpc.aio.EOF:
                speaker.refused(answer)
        speaker.refused((await call.details(), await call.trailing_metadata()))


async def _refused_raw(speaker: Speaker, call: Any, data: bytes) -> None:
    try:
        await call(data, metadata=_metadata(speaker), timeout=20)
    except grpc.aio.AioRpcError as error:
        speaker.refused((error.details(), error.trailing_metadata()))


async def _unknown_method(speaker: Speaker, channel: grpc.aio.Channel) -> None:
    """Call what does not exist."""
    word = speaker.speech.word
    for path in (f"/turnwire.v1.SessionService/{word('method')}", f"/{word('service')}/Get"):
        await _refused_raw(speaker, channel.unary_unary(path), word("argument").encode())


async def _not_let_in(speaker: Speaker, channel: grpc.aio.Channel) -> None:
    """Come with what lets nobody in."""
    word = speaker.speech.word
    for authorization in (
        f"Bearer {word('wrong key')}",
        f"Basic {word('Basic')}",
        word("Authorization"),
    ):
        call = stubs.SessionServiceStub(channel).Connect(
            metadata=(("authorization", authorization),)
        )
        await _sent(speaker, call, rpc.ConnectRequest())
        speaker.ended.add("not let in")


async def ask_health(target: str, service: str) -> str:
    """Return what the health port says of a service."""
    async with grpc.aio.insecure_channel(target) as channel:
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            return repr(await check(request.SerializeToString(), timeout=20))
        except grpc.aio.AioRpcError as error:
            return f"{error.details()} {error.trailing_metadata()}"
