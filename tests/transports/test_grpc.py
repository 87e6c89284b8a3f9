"""What only the gRPC wire can show. The engine behind it does what each test tells it to."""

import asyncio
import contextlib
import importlib.util
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import grpc
import pytest
import structlog
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from service.connection import Sink
from service.engine import Engine
from service.errors import Ending, NotFound, Overloaded, Refusal, SessionError, Unauthenticated
from service.identity import Anonymous, Credentials, Identities, Identity
from service.limits import MIB, Limits
from service.paging import Page
from transports import grpc_conversations
from transports.grpc import NAME, options, serve
from transports.grpc_calls import REFUSED
from transports.grpc_server import GrpcServer
from turnwire.delta import Delta, DeltaSource, Event, to_message, to_wire
from turnwire.v1 import events_pb2, items_pb2, responses_pb2
from turnwire.v1 import session_service_pb2 as rpc
from turnwire.v1 import session_service_pb2_grpc as stubs

Call: TypeAlias = grpc.aio.StreamStreamCall[rpc.ConnectRequest, rpc.ConnectResponse]
Followed: TypeAlias = grpc.aio.UnaryStreamCall[rpc.FollowRequest, rpc.FollowResponse]
T = TypeVar("T")

KEY = "Bearer tw_1_secret"


class ScriptedConnection:
    """Keeps what the transport says; says what the test wants."""

    def __init__(self, tenant: str, sink: Sink) -> None:
        self.tenant = tenant
        self.sink = sink
        self.received: asyncio.Queue[events_pb2.ClientEvent] = asyncio.Queue()
        self.refused: asyncio.Queue[str] = asyncio.Queue()
        self.idle = asyncio.Event()
        self.idle.set()
        self.asked_to_finish = asyncio.Event()
        self.closed: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def receive(self, event: events_pb2.ClientEvent) -> None:
        self.received.put_nowait(event)
        if event.WhichOneof("kind") == "steer":
            self.sink.deliver([delta(0)])
        if event.WhichOneof("kind") == "other_json":
            raise ZeroDivisionError(event.other_json)

    def refuse(self, refusal: Refusal, stream_id: str | None = None) -> None:
        self.refused.put_nowait(refusal.code)

    async def finished(self) -> None:
        self.asked_to_finish.set()
        await self.idle.wait()

    def close(self, ending: Ending) -> None:
        if not self.closed.done():
            self.closed.set_result(ending)

    async def ending(self) -> Ending:
        async with asyncio.timeout(10):
            return await self.closed


class ScriptedResponses:
    """Holds one response, and tells whatever a test puts into `batches`; None ends it."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Sequence[Event] | None] = asyncio.Queue()
        self.followed: list[int | None] = []
        self.status = "completed"
        self.output = ""
        self.compacting = asyncio.Event()
        self.compacting.set()
        self.abandoned = asyncio.Event()
        self.compacted: list[responses_pb2.CreateResponse] = []

    async def get(self, tenant: str, response_id: str) -> responses_pb2.Response:
        if (tenant, response_id) != ("anonymous", "resp_1"):
            raise NotFound("response_not_found", "There is no such response.")
        said = items_pb2.Item(message=items_pb2.Message(content_text=self.output))
        return responses_pb2.Response(id=response_id, status=self.status, output=[said])

    async def delete(self, tenant: str, response_id: str) -> rpc.DeleteResponse:
        await self.get(tenant, response_id)
        return rpc.DeleteResponse(response_id=response_id, object="response", deleted=True)

    async def cancel(self, tenant: str, response_id: str) -> responses_pb2.Response:
        response = await self.get(tenant, response_id)
        response.status = "cancelled"
        return response

    async def input_items(self, tenant: str, response_id: str, page: Page) -> items_pb2.ItemList:
        await self.get(tenant, response_id)
        name = f"{page.after}/{page.limit}/{page.order}"
        return items_pb2.ItemList(object="list", first_id=name)

    async def compact(
        self, tenant: str, create: responses_pb2.CreateResponse
    ) -> rpc.CompactResponse:
        assert tenant == "anonymous"
        await self.compacting.wait()
        self.compacted.append(create)
        return rpc.CompactResponse(id="cmp_1", object="response.compaction")

    async def follow(
        self, tenant: str, response_id: str, starting_after: int | None
    ) -> AsyncGenerator[Sequence[Event], None]:
        await self.get(tenant, response_id)
        self.followed.append(starting_after)
        return self._told()

    async def _told(self) -> AsyncGenerator[Sequence[Event], None]:
        try:
            while (batch := await self.batches.get()) is not None:
                yield batch
        finally:
            self.abandoned.set()


class ScriptedEngine:
    """Opens connections for tests to script, and holds one response."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[ScriptedConnection] = asyncio.Queue()
        self.rejections: list[tuple[str, str]] = []
        self.refusals: list[int] = []
        self.started: list[responses_pb2.CreateResponse] = []
        self.responses = ScriptedResponses()
        self.conversations = None
        self.ready = True
        self.full = False

    def connect(self, caller: Identity, transport: str, sink: Sink) -> ScriptedConnection:
        assert transport == "grpc"
        if self.full:
            raise Overloaded("overloaded", "Too many connections. Retry later.")
        connection = ScriptedConnection(caller.tenant, sink)
        self.opened.put_nowait(connection)
        return connection

    def rejected(self, transport: str, outcome: str) -> None:
        self.rejections.append((transport, outcome))

    def refused(self, transport: str, status: int) -> None:
        assert transport == "grpc"
        self.refusals.append(status)

    def welcomes(self, caller: Identity) -> bool:
        return bool(caller.tenant)

    def admit(self) -> None:
        if self.full:
            raise Overloaded("overloaded", "The server is going away.")

    async def start(
        self, caller: Identity, create: responses_pb2.CreateResponse
    ) -> responses_pb2.Response:
        self.started.append(create)
        return responses_pb2.Response(id="resp_1", status="queued")

    def models(self) -> rpc.ListModelsResponse:
        return rpc.ListModelsResponse(models=[rpc.Model(id="tiny", owned_by="simulator")])


class OneKey:
    """One key, one tenant."""

    anonymous = False

    def identify(self, credentials: Credentials) -> Identity:
        if credentials.authorization != KEY:
            raise Unauthenticated
        return Identity("acme")

    def holds(self, identity: Identity) -> bool:
        return identity.tenant == "acme"


class Face:
    """A served engine and a client's channel to it."""

    def __init__(self, engine: ScriptedEngine, server: GrpcServer) -> None:
        self.engine = engine
        self.server = server
        no_growing_window = [("grpc.http2.bdp_probe", 0)]  # 64 KiB unread hold a write up
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", no_growing_window)
        self.stub = stubs.SessionServiceStub(self.channel)

    async def connect(self) -> tuple[Call, ScriptedConnection]:
        call = self.stub.Connect()
        return call, await self.opened()

    def connect_bytes(self) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
        connect: grpc.aio.StreamStreamMultiCallable[bytes, bytes]
        connect = self.channel.stream_stream(f"/{NAME}/Connect")
        return connect()

    async def opened(self) -> ScriptedConnection:
        async with asyncio.timeout(10):
            return await self.engine.opened.get()


class Faces:
    """Serves engines, and stops what it served."""

    def __init__(self) -> None:
        self._faces: list[Face] = []

    async def __call__(self, limits: Limits | None = None, keys: Identities | None = None) -> Face:
        engine = ScriptedEngine()
        server = await serve(
            cast("Engine", engine), keys or Anonymous(), limits or Limits(), "127.0.0.1:0"
        )
        self._faces.append(Face(engine, server))
        return self._faces[-1]

    async def stop(self) -> None:
        for face in self._faces:
            await face.channel.close()
            await face.server.stop(0)


@pytest.fixture
async def serving() -> AsyncIterator[Faces]:
    faces = Faces()
    yield faces
    await faces.stop()


def delta(number: int, text: str = "word") -> events_pb2.ServerEvent:
    return events_pb2.ServerEvent(
        sequence_number=number,
        output_text_delta=events_pb2.OutputTextDelta(item_id="msg_1", delta=text),
    )


def completed(number: int) -> events_pb2.ServerEvent:
    return events_pb2.ServerEvent(sequence_number=number, completed=events_pb2.ResponseEvent())


def steer() -> rpc.ConnectRequest:
    event = events_pb2.ClientEvent(steer=events_pb2.SteerResponse(previous_response_id="resp_1"))
    return rpc.ConnectRequest(events=[event])


async def read(call: Call) -> rpc.ConnectResponse:
    async with asyncio.timeout(10):
        message = await call.read()
    assert isinstance(message, rpc.ConnectResponse)
    return message


async def rest(call: Call) -> list[rpc.ConnectResponse]:
    """Read to the end, however the call ended."""
    messages: list[rpc.ConnectResponse] = []
    async with asyncio.timeout(10):
        with contextlib.suppress(grpc.aio.AioRpcError):
            while isinstance(message := await call.read(), rpc.ConnectResponse):
                messages.append(message)
    return messages


async def numbers(call: Call, count: int) -> list[int]:
    """Read until so many events arrived; return their numbers."""
    read_so_far: list[int] = []
    while len(read_so_far) < count:
        read_so_far += [event.sequence_number for event in (await read(call)).events]
    return read_so_far


async def status(call: grpc.aio.Call) -> tuple[grpc.StatusCode, str | None]:
    """Return how a call ended, and the name it was given in the trailing metadata."""
    async with asyncio.timeout(10):
        trailers = dict(await call.trailing_metadata())
    name = trailers.get("turnwire-ending") or trailers.get("turnwire-code")
    return await call.code(), str(name) if name else None


# Who calls


@pytest.mark.rule("HS-2")
async def test_a_bad_key_is_refused_alike_on_streams_and_calls(serving: Faces) -> None:
    face = await serving(keys=OneKey())
    metadata = (("authorization", "Bearer tw_1_wrong"),)
    stream = face.stub.Connect(metadata=metadata)
    unary = face.stub.ListModels(rpc.ListModelsRequest(), metadata=metadata)
    refused = (grpc.StatusCode.UNAUTHENTICATED, "invalid_api_key")
    assert await status(stream) == await status(unary) == refused
    assert await stream.details() == await unary.details()
    assert face.engine.opened.empty()
    assert face.engine.rejections == [("grpc", "auth")]
    assert face.engine.refusals == [401, 401]


async def test_a_call_without_a_key_learns_nothing(serving: Faces) -> None:
    stub = (await serving(keys=OneKey())).stub
    calls = (
        stub.Get(rpc.GetRequest(response_id="resp_1")),
        stub.Cancel(rpc.CancelRequest(response_id="resp_1")),
        stub.Follow(rpc.FollowRequest(response_id="resp_1")),
    )
    assert {await call.code() for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}


async def test_a_key_names_the_tenant(serving: Faces) -> None:
    face = await serving(keys=OneKey())
    call = face.stub.Connect(metadata=(("authorization", KEY),))
    assert (await face.opened()).tenant == "acme"
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK


async def test_two_keys_are_none(serving: Faces) -> None:
    face = await serving(keys=OneKey())
    twice = (("authorization", KEY), ("authorization", KEY))
    calls = (
        face.stub.Connect(metadata=twice),
        face.stub.ListModels(rpc.ListModelsRequest(), metadata=twice),
        face.stub.Follow(rpc.FollowRequest(response_id="resp_1"), metadata=twice),
    )
    assert {await call.code() for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}
    assert face.engine.refusals == [401] * 3


async def test_without_keys_everyone_is_anonymous(serving: Faces) -> None:
    call, connection = await (await serving()).connect()
    assert connection.tenant == "anonymous"
    await call.done_writing()
    assert await call.code() == grpc.StatusCode.OK


@pytest.mark.rule("HS-4")
async def test_a_full_server_refuses_the_stream(serving: Faces) -> None:
    face = await serving()
    face.engine.full = True
    call = face.stub.Connect()
    assert await status(call) == (grpc.StatusCode.UNAVAILABLE, "overloaded")
    assert await call.details() == "Too many connections. Retry later."


async def test_an_accepted_stream_says_so_before_there_is_an_event(serving: Faces) -> None:
    call, _ = await (await serving()).connect()
    await call.wait_for_connection()


@pytest.mark.rule("GR-4")
def test_every_refusal_of_the_engine_has_a_status() -> None:
    def kinds(kind: type[Refusal]) -> Iterator[type[Refusal]]:
        yield kind
        for narrower in kind.__subclasses__():
            yield from kinds(narrower)

    refused = {kind.status for kind in kinds(Refusal) if kind.__module__.startswith("service.")}
    assert refused <= REFUSED.keys()


# What arrives


async def test_the_events_of_a_request_arrive_in_order(serving: Faces) -> None:
    call, connection = await (await serving()).connect()
    create = responses_pb2.CreateResponse(input_text="hi")
    lanes = [events_pb2.ClientEvent(stream_id=f"l{number}", create=create) for number in range(3)]
    await call.write(rpc.ConnectRequest(events=lanes))
    assert [await connection.received.get() for _ in lanes] == lanes


async def test_an_empty_request_asks_for_nothing(serving: Faces) -> None:
    call, connection = await (await serving()).connect()
    await call.write(rpc.ConnectRequest())
    await call.write(steer())
    assert (await connection.received.get()).HasField("steer")


async def test_bytes_that_are_no_request_end_the_stream(serving: Faces) -> None:
    face = await serving()
    call = face.connect_bytes()
    connection = await face.opened()
    await call.write(b"\xff\xff")
    assert await status(call) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_frame")
    assert await connection.ending() == Ending.INVALID_FRAME


@pytest.mark.rule("ER-3", "GR-1")
async def test_opaque_json_that_is_none_is_refused_and_the_stream_lives_on(
    serving: Faces,
) -> None:
    call, connection = await (await serving()).connect()
    broken = responses_pb2.CreateResponse(input=[items_pb2.Item(other_json='{"type":')])
    good = events_pb2.ClientEvent(create=responses_pb2.CreateResponse(input_text="hello"))
    events = [events_pb2.ClientEvent(create=broken), good]
    await call.write(rpc.ConnectRequest(events=events))
    async with asyncio.timeout(10):
        assert await connection.refused.get() == "invalid_json"
        assert await connection.received.get() == good


async def test_a_request_of_very_many_events_is_refused_before_it_is_read(serving: Faces) -> None:
    face = await serving()
    call = face.connect_bytes()
    connection = await face.opened()
    await call.write(b"\x0a\x00" * 1_000_000)
    assert await status(call) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_frame")
    assert connection.received.empty()
    assert await connection.ending() == Ending.INVALID_FRAME


async def test_many_events_may_come_in_one_request(serving: Faces) -> None:
    call, connection = await (await serving()).connect()
    create = responses_pb2.CreateResponse(input_text="\n" * 5000)  # as many bytes look like tags
    events = [events_pb2.ClientEvent(create=create)] * 1024
    await call.write(rpc.ConnectRequest(events=events))
    async with asyncio.timeout(10):
        for _ in events:
            await connection.received.get()


async def test_bytes_that_are_no_request_are_refused_by_calls(serving: Faces) -> None:
    get: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    get = (await serving()).channel.unary_unary(f"/{NAME}/Get")
    assert await status(get(b"\xff\xff")) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_frame")


@pytest.mark.rule("HS-8")
async def test_a_message_beyond_the_limit_ends_the_stream(serving: Faces) -> None:
    call, connection = await (await serving(Limits(message_bytes=1000))).connect()
    await call.write(rpc.ConnectRequest(events=[events_pb2.ClientEvent(other_json="x" * 2000)]))
    assert await call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await connection.ending() == Ending.GONE
    assert connection.received.empty()


@pytest.mark.rule("GR-2")
async def test_after_half_close_turns_run_to_their_end(serving: Faces) -> None:
    call, connection = await (await serving()).connect()
    connection.idle.clear()
    await call.done_writing()
    await connection.asked_to_finish.wait()
    connection.sink.deliver([delta(0)])
    assert await numbers(call, 1) == [0]
    connection.sink.deliver([delta(1)])
    connection.idle.set()
    assert [event.sequence_number for message in await rest(call) for event in message.events] == [
        1
    ]
    assert await call.code() == grpc.StatusCode.OK
    assert await connection.ending() == Ending.GONE


@pytest.mark.rule("GR-2")
async def test_a_client_that_cancels_closes_its_connection(serving: Faces) -> None:
    call, connection = await (await serving()).connect()
    call.cancel()
    assert await connection.ending() == Ending.GONE


async def test_a_client_that_cancels_after_half_close_closes_its_connection(
    serving: Faces,
) -> None:
    call, connection = await (await serving()).connect()
    connection.idle.clear()
    await call.done_writing()
    await connection.asked_to_finish.wait()
    call.cancel()
    assert await connection.ending() == Ending.GONE


async def test_a_deadline_of_the_client_closes_its_connection(serving: Faces) -> None:
    face = await serving()
    call = face.stub.Connect(timeout=0.2)
    connection = await face.opened()
    assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert await connection.ending() == Ending.GONE


async def test_a_channel_that_closes_closes_its_connections(serving: Faces) -> None:
    face = await serving()
    (_, first), (_, second) = await face.connect(), await face.connect()
    await face.channel.close()
    assert [await first.ending(), await second.ending()] == [Ending.GONE, Ending.GONE]


# What is sent


async def test_thousands_of_events_arrive_in_order(serving: Faces) -> None:
    call, connection = await (await serving()).connect()
    reading = asyncio.create_task(numbers(call, 3000))
    for number in range(3000):
        connection.sink.deliver([delta(number)])
        if number % 7 == 0:
            await asyncio.sleep(0)  # let writes overlap with deliveries
    assert await reading == list(range(3000))


@pytest.mark.rule("GR-1")
async def test_a_batch_is_encoded_as_protobuf_would(serving: Faces) -> None:
    face = await serving()
    call = face.connect_bytes()
    connection = await face.opened()
    events = [delta(size, "x" * size) for size in (0, 1, 100, 127, 128, 16_383, 70_000)]
    connection.sink.deliver(events)
    decoded = [events_pb2.ServerEvent.FromString(to_wire(event)) for event in events]
    assert await call.read() == rpc.ConnectResponse(events=decoded).SerializeToString()


@pytest.mark.rule("GR-1")
async def test_what_gathers_during_a_write_is_one_message(serving: Faces) -> None:
    call, connection = await (await serving()).connect()
    connection.sink.deliver([delta(0, "x" * 900_000)])  # in flight until the client reads
    for number in range(1, 1001):
        connection.sink.deliver([delta(number)])
        await asyncio.sleep(0)
    events, messages = 0, 0
    while events < 1001:
        events += len((await read(call)).events)
        messages += 1
    assert messages == 2


async def test_large_batches_are_split(serving: Faces) -> None:
    call, connection = await (await serving()).connect()
    connection.sink.deliver([delta(number, "x" * 80_000) for number in range(10)])
    sizes: list[int] = []
    while sum(sizes) < 10:
        message = await read(call)
        assert message.ByteSize() <= 256 * 1024
        sizes.append(len(message.events))
    assert sizes == [3, 3, 3, 1]


async def test_an_event_larger_than_a_batch_travels_alone(serving: Faces) -> None:
    call, connection = await (await serving()).connect()
    connection.sink.deliver([delta(0), delta(1, "x" * 2 * MIB), delta(2)])
    assert [len((await read(call)).events) for _ in range(3)] == [1, 1, 1]


async def test_a_congested_stream_says_so_until_it_is_read(serving: Faces) -> None:
    call, connection = await (await serving(Limits(outbound_bytes=MIB))).connect()
    connection.sink.deliver([delta(number, "x" * 600_000) for number in range(4)])
    assert connection.sink.congested
    drained = asyncio.create_task(connection.sink.drained())
    assert await numbers(call, 4) == [0, 1, 2, 3]
    await drained
    assert not connection.sink.congested


async def test_who_waits_for_room_is_let_go_when_the_client_leaves(serving: Faces) -> None:
    call, connection = await (await serving(Limits(outbound_bytes=MIB))).connect()
    connection.sink.deliver([delta(number, "x" * 600_000) for number in range(4)])
    drained = asyncio.create_task(connection.sink.drained())
    call.cancel()
    await drained
    connection.sink.deliver([delta(4)])  # too late, and harmless


@pytest.mark.rule("LV-7")
async def test_a_slow_reader_is_cut_and_others_are_not_disturbed(serving: Faces) -> None:
    face = await serving(Limits(send_deadline=0.2))
    slow, stuck = await face.connect()
    brisk, _ = await face.connect()
    stuck.sink.deliver([delta(number, "x" * 600_000) for number in range(4)])
    while not stuck.closed.done():
        await brisk.write(steer())
        assert await numbers(brisk, 1) == [0]
    assert stuck.closed.result() == Ending.SLOW_READER
    await rest(slow)
    assert await status(slow) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "slow_reader")


async def test_an_event_of_any_size_reaches_a_client_that_reads(serving: Faces) -> None:
    face = await serving(Limits(outbound_bytes=1000))
    call, connection = await face.connect()
    for number in range(3):
        connection.sink.deliver([delta(number, "x" * 3_000_000)])
    assert await numbers(call, 3) == [0, 1, 2]


async def test_a_stream_that_is_fed_on_and_not_read_is_cut(serving: Faces) -> None:
    face = await serving(Limits(outbound_bytes=1000, send_deadline=0.2))
    call, connection = await face.connect()
    async with asyncio.timeout(10):
        while not connection.closed.done():
            connection.sink.deliver([delta(1, "x" * 90_000)])
            await asyncio.sleep(0.01)
    assert await connection.ending() == Ending.SLOW_READER
    await rest(call)
    assert await status(call) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "slow_reader")


@pytest.mark.rule("LV-4")
async def test_silence_is_broken_by_heartbeats(serving: Faces) -> None:
    call, _ = await (await serving(Limits(ping_interval=0.05))).connect()
    heartbeats = [await read(call), await read(call)]
    assert heartbeats == [rpc.ConnectResponse(heartbeat=rpc.Heartbeat())] * 2


# How it ends


@pytest.mark.rule("GR-3")
@pytest.mark.parametrize("ending", [Ending.DRAIN, Ending.AGE])
async def test_going_away_is_announced_in_band_before_the_status(
    serving: Faces, ending: Ending
) -> None:
    call, connection = await (await serving()).connect()
    connection.sink.deliver([delta(0)])
    connection.sink.end(SessionError(ending, "Reconnect and go on."))
    messages = await rest(call)
    assert sum(len(message.events) for message in messages) == 1
    assert messages[-1].HasField("drain")
    assert await status(call) == (grpc.StatusCode.UNAVAILABLE, ending.value)
    assert await call.details() == "Reconnect and go on."
    assert await connection.ending() == ending


async def test_another_ending_is_not_announced_but_what_was_delivered_is_sent(
    serving: Faces,
) -> None:
    call, connection = await (await serving()).connect()
    connection.sink.deliver([delta(0)])
    connection.sink.end(SessionError(Ending.POLICY, "Not like this."))
    message = await read(call)
    assert len(message.events) == 1
    assert not message.HasField("drain")
    assert await status(call) == (grpc.StatusCode.PERMISSION_DENIED, "policy_violation")


@pytest.mark.rule("ER-5")
async def test_a_defect_is_logged_once_and_not_told(serving: Faces) -> None:
    with structlog.testing.capture_logs() as logs:
        call, connection = await (await serving()).connect()
        canary = events_pb2.ClientEvent(other_json='{"secret": "canary"}')
        await call.write(rpc.ConnectRequest(events=[canary]))
        assert await status(call) == (grpc.StatusCode.INTERNAL, "internal_error")
    assert await call.details() == "Internal error."
    assert [entry["event"] for entry in logs] == ["call_failed"]
    assert "canary" not in str(logs)
    assert await connection.ending() == Ending.INTERNAL


async def test_a_stopping_server_cancels_streams_after_its_grace(serving: Faces) -> None:
    face = await serving()
    _, connection = await face.connect()
    await face.server.stop(0)
    assert await connection.ending() == Ending.GONE


# The other calls


@pytest.mark.rule("GR-4")
async def test_a_stored_response_is_got_and_deleted(serving: Faces) -> None:
    face = await serving()
    got = await face.stub.Get(rpc.GetRequest(response_id="resp_1"))
    deleted = await face.stub.Delete(rpc.DeleteRequest(response_id="resp_1"))
    assert (got.response.id, deleted.response_id) == ("resp_1", "resp_1")


@pytest.mark.rule("RV-6")
async def test_a_response_that_is_not_there_is_not_found(serving: Faces) -> None:
    stub = (await serving()).stub
    for call in (
        stub.Get(rpc.GetRequest(response_id="resp_2")),
        stub.Delete(rpc.DeleteRequest(response_id="resp_2")),
        stub.Cancel(rpc.CancelRequest(response_id="resp_2")),
        stub.ListInputItems(rpc.ListInputItemsRequest(response_id="resp_2")),
        stub.Follow(rpc.FollowRequest(response_id="resp_2")),
    ):
        assert await status(call) == (grpc.StatusCode.NOT_FOUND, "response_not_found")


@pytest.mark.rule("GR-4")
async def test_models_are_listed(serving: Faces) -> None:
    listed = await (await serving()).stub.ListModels(rpc.ListModelsRequest())
    assert list(listed.models) == [rpc.Model(id="tiny", owned_by="simulator")]


@pytest.mark.rule("GR-4", "CR-13")
@pytest.mark.parametrize("background", [None, False, True])
async def test_a_response_is_started_in_the_background_whatever_it_says(
    serving: Faces, background: bool | None
) -> None:
    face = await serving()
    settings = responses_pb2.Settings(background=background)
    create = responses_pb2.CreateResponse(input_text="hi", settings=settings)
    started = await face.stub.Start(rpc.StartRequest(create=create))
    assert started.response.status == "queued"
    assert face.engine.started[0].settings.background


@pytest.mark.rule("GR-4", "RV-3")
async def test_a_response_is_cancelled(serving: Faces) -> None:
    cancelled = await (await serving()).stub.Cancel(rpc.CancelRequest(response_id="resp_1"))
    assert cancelled.response.status == "cancelled"


@pytest.mark.rule("GR-4", "RV-5")
async def test_a_page_of_input_items_is_asked_for_as_the_client_said(serving: Faces) -> None:
    request = rpc.ListInputItemsRequest(response_id="resp_1", after="a", limit=7, order="asc")
    listed = await (await serving()).stub.ListInputItems(request)
    assert listed.list.first_id == "a/7/asc"


@pytest.mark.rule("GR-4", "CP-2")
async def test_a_conversation_is_compacted_as_if_it_had_come_as_json(serving: Faces) -> None:
    face = await serving()
    known = items_pb2.Item(other_json='{"type":"message","role":"user","content":"hi"}')
    create = responses_pb2.CreateResponse(input=[known])
    answer = await face.stub.Compact(rpc.CompactRequest(create=create))
    assert answer.id == "cmp_1"
    assert face.engine.responses.compacted[0].input[0].message.content_text == "hi"


async def test_a_compaction_is_ended_when_the_server_goes_away(serving: Faces) -> None:
    face = await serving()
    face.engine.responses.compacting.clear()
    call = face.stub.Compact(rpc.CompactRequest())
    connection = await face.opened()
    connection.sink.end(SessionError(Ending.DRAIN, "Going away."))
    assert await status(call) == (grpc.StatusCode.UNAVAILABLE, "server_is_overloaded")
    assert await connection.ending() == Ending.DRAIN


async def test_a_large_answer_arrives_whole_and_gives_its_place_back(serving: Faces) -> None:
    face = await serving()
    face.engine.responses.output = "x" * 1_000_000
    for _ in range(10):  # more than there are places
        got = await face.stub.Get(rpc.GetRequest(response_id="resp_1"))
        assert len(got.response.output[0].message.content_text) == 1_000_000


async def test_what_a_message_leaves_out_is_refused_as_in_json(serving: Faces) -> None:
    call, connection = await (await serving()).connect()
    interrupt = events_pb2.ClientEvent(interrupt=events_pb2.InterruptResponse())
    await call.write(rpc.ConnectRequest(events=[interrupt]))
    async with asyncio.timeout(10):
        assert await connection.refused.get() == "missing_required_parameter"


async def test_text_that_is_no_json_is_refused_by_calls(serving: Faces) -> None:
    broken = responses_pb2.CreateResponse(input=[items_pb2.Item(other_json='{"type":')])
    call = (await serving()).stub.Compact(rpc.CompactRequest(create=broken))
    assert await status(call) == (grpc.StatusCode.INVALID_ARGUMENT, "invalid_json")


# Following a response


async def followed(call: Followed) -> list[list[int]]:
    """Read to the end; return the numbers of the events of each message."""
    async with asyncio.timeout(10):
        return [[event.sequence_number for event in message.events] async for message in call]


async def test_a_batch_of_a_response_is_a_message(serving: Faces) -> None:
    face = await serving()
    for batch in ([delta(0), delta(1)], [], [completed(2)], None):
        face.engine.responses.batches.put_nowait(batch)
    call = face.stub.Follow(rpc.FollowRequest(response_id="resp_1"))
    assert await followed(call) == [[0, 1], [2]]
    assert await call.code() == grpc.StatusCode.OK
    assert face.engine.responses.followed == [None]


@pytest.mark.rule("GR-4", "RV-2")
async def test_a_response_is_followed_from_an_event_on_the_first_one_too(serving: Faces) -> None:
    face = await serving()
    for after in (0, 7):
        face.engine.responses.batches.put_nowait(None)
        request = rpc.FollowRequest(response_id="resp_1", starting_after=after)
        assert await followed(face.stub.Follow(request)) == []
    assert face.engine.responses.followed == [0, 7]


async def test_followed_events_are_encoded_as_protobuf_would(serving: Faces) -> None:
    face = await serving()
    template = events_pb2.OutputTextDelta(item_id="msg_1")
    source = DeltaSource(events_pb2.ServerEvent(output_text_delta=template))
    events: list[Event] = [Delta(source, 0, "word"), delta(1, "x" * 300), Delta(source, 2, "")]
    for batch in (events, None):
        face.engine.responses.batches.put_nowait(batch)
    follow: grpc.aio.UnaryStreamMultiCallable[bytes, bytes]
    follow = face.channel.unary_stream(f"/{NAME}/Follow")
    call = follow(rpc.FollowRequest(response_id="resp_1").SerializeToString())
    events.append(completed(3))
    expected = rpc.FollowResponse(events=map(to_message, events)).SerializeToString()
    async with asyncio.timeout(10):
        assert [message async for message in call] == [expected]


async def test_a_long_replay_is_split_into_messages_that_clients_accept(serving: Faces) -> None:
    face = await serving()
    long = [delta(number, "x" * 80_000) for number in range(9)]
    for batch in ([*long, completed(9)], None):
        face.engine.responses.batches.put_nowait(batch)
    call = face.stub.Follow(rpc.FollowRequest(response_id="resp_1"))
    assert [len(numbers) for numbers in await followed(call)] == [3, 3, 4]


@pytest.mark.parametrize("told", [[delta(0)], []])
async def test_a_telling_that_ends_before_its_response_is_no_success(
    serving: Faces, told: Sequence[Event]
) -> None:
    face = await serving()
    face.engine.responses.status = "in_progress"
    for batch in (told, None):
        face.engine.responses.batches.put_nowait(batch)
    call = face.stub.Follow(rpc.FollowRequest(response_id="resp_1"))
    with pytest.raises(grpc.aio.AioRpcError):
        await followed(call)
    assert await status(call) == (grpc.StatusCode.UNAVAILABLE, "server_is_overloaded")


async def test_who_stops_following_is_not_told_any_more(serving: Faces) -> None:
    face = await serving()
    face.engine.responses.batches.put_nowait([delta(0)])
    call = face.stub.Follow(rpc.FollowRequest(response_id="resp_1"))
    async with asyncio.timeout(10):
        await call.read()
        call.cancel()
        await face.engine.responses.abandoned.wait()


async def test_who_follows_and_does_not_read_is_cut(serving: Faces) -> None:
    face = await serving(Limits(send_deadline=0.2))
    for number in range(8):
        face.engine.responses.batches.put_nowait([delta(number, "x" * 900_000)])
    call = face.stub.Follow(rpc.FollowRequest(response_id="resp_1"))
    async with asyncio.timeout(10):
        await face.engine.responses.abandoned.wait()
        with contextlib.suppress(grpc.aio.AioRpcError):
            _ = [message async for message in call]
    assert await status(call) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "slow_reader")


# What is offered


async def test_reflection_lists_the_services(serving: Faces) -> None:
    face = await serving()

    def listed() -> set[str]:  # its client is synchronous
        with grpc.insecure_channel(f"127.0.0.1:{face.server.port}") as channel:
            return set(ProtoReflectionDescriptorDatabase(channel).get_services())

    async with asyncio.timeout(10):
        offered = await asyncio.to_thread(listed)
    assert offered >= {NAME, grpc_conversations.NAME, "grpc.health.v1.Health"}


async def test_health_on_this_port_follows_the_engine(serving: Faces) -> None:
    face = await serving()
    check: grpc.aio.UnaryUnaryMultiCallable[
        health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse
    ] = face.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest.SerializeToString,
        health_pb2.HealthCheckResponse.FromString,
    )
    names = ("", NAME, grpc_conversations.NAME)
    services = [health_pb2.HealthCheckRequest(service=name) for name in names]
    for service in services:
        assert (await check(service)).status == health_pb2.HealthCheckResponse.SERVING
    face.engine.ready = False
    for service in services:
        assert (await check(service)).status == health_pb2.HealthCheckResponse.NOT_SERVING


# The server


@pytest.mark.rule("HS-9")
async def test_none_of_a_burst_of_streams_is_refused(serving: Faces) -> None:
    face = await serving()
    all_answered = asyncio.Barrier(1500)

    async def client() -> grpc.StatusCode:
        call = face.stub.Connect()
        await call.write(steer())
        assert await numbers(call, 1) == [0]
        await all_answered.wait()
        await call.done_writing()
        return await call.code()

    statuses = await asyncio.gather(*(client() for _ in range(1500)))
    assert set(statuses) == {grpc.StatusCode.OK}


async def test_a_port_is_not_shared_by_two_servers(serving: Faces) -> None:
    face = await serving()
    address = f"127.0.0.1:{face.server.port}"
    with pytest.raises(OSError, match=address):
        await serve(cast("Engine", face.engine), Anonymous(), Limits(), address)


def test_the_core_knows_every_option() -> None:
    """It ignores what it does not know, and a misspelt keepalive shows after minutes."""
    spec = importlib.util.find_spec("grpc._cython.cygrpc")
    assert spec
    assert spec.origin
    core = Path(spec.origin).read_bytes()
    assert [name for name, _ in options(Limits()) if name.encode() not in core] == []
