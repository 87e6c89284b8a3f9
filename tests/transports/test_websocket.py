"""What only the WebSocket shows: the handshake, frames, bounds, deadlines, and how it ends."""

import asyncio
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Close, Frame, Opcode

from service.errors import Ending, Overloaded, SessionError
from service.identity.keys import KeyFile, new_key
from service.limits import Limits
from tests.transports.conftest import Served
from tests.transports.scripted import (
    CREATE,
    RawClient,
    ScriptedConnection,
    Wired,
    create,
    handshake,
    text,
)
from transports.status import STATUS
from transports.websocket_outbox import _header
from turnwire.delta import to_json
from turnwire.v1 import events_pb2

ORIGIN = "https://app.example"
KIB = 1024


async def received(client: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(5):
        event = json.loads(await client.recv())
    assert isinstance(event, dict)
    return event


def event_in(frame: Frame) -> dict[str, Any]:
    event = json.loads(bytes(frame.data))
    assert isinstance(event, dict)
    return event


async def answers(client: ClientConnection) -> None:
    """Assert that the connection is usable."""
    await client.send(CREATE)
    assert (await received(client))["delta"] == "create"


async def refused(client: ClientConnection, frame: str | bytes) -> tuple[object, object]:
    """Send what will be refused, and return the status and code of the refusal."""
    await client.send(frame)
    event = await received(client)
    assert event["type"] == "error"
    return event["status"], event["error"]["code"]


async def closed(client: ClientConnection) -> Close | None:
    """Return the close frame that ends the connection, after whatever comes before it."""
    try:
        async with asyncio.timeout(5):
            while True:
                await client.recv()
    except ConnectionClosed as end:
        return end.rcvd


async def turned_away(served: Served, path: str = "/v1/responses", **headers: str) -> InvalidStatus:
    with pytest.raises(InvalidStatus) as refusal:
        async with served.connect(path, **headers):
            pass
    return refusal.value


def code_of(refusal: InvalidStatus) -> tuple[int, str]:
    error = json.loads(refusal.response.body)["error"]
    assert refusal.response.headers["Content-Type"] == "application/json"
    assert set(error) == {"type", "code", "message", "param"}
    return refusal.response.status_code, error["code"]


def frames_of(data: bytes) -> list[Frame]:
    """Parse what a server wrote."""
    frames = []
    while data:
        length, start = data[1], 2
        if length > 125:
            start += {126: 2, 127: 8}[length]
            length = int.from_bytes(data[2:start], "big")
        frames.append(Frame(Opcode(data[0] & 0xF), data[start : start + length]))
        data = data[start + length :]
    return frames


class TestHandshake:
    @pytest.mark.rule("HS-1")
    async def test_both_paths_any_query_and_any_beta_header_are_accepted(
        self, served: Served
    ) -> None:
        for path in ("/v1/responses", "/responses", "/v1/responses?model=x&y"):
            async with served.connect(path, OpenAI_Beta="whatever=v9") as client:
                await answers(client)

    @pytest.mark.rule("HS-5")
    async def test_no_extension_no_subprotocol_and_no_model_are_agreed_on(
        self, served: Served
    ) -> None:
        client = await RawClient.connect(served.port)
        offers = [
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
            "Sec-WebSocket-Protocol: realtime, chat",
        ]
        client.writer.write(handshake(headers=offers))
        head = (await client.head()).lower()
        assert head.startswith("http/1.1 101 ")
        assert "sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in head
        for absent in ("sec-websocket-extensions", "sec-websocket-protocol", "openai-model"):
            assert absent not in head
        await client.close()

    @pytest.mark.rule("HS-3")
    async def test_another_path_is_not_found(self, served: Served) -> None:
        assert code_of(await turned_away(served, "/v1/other")) == (404, "not_found")

    @pytest.mark.rule("HS-3", "HS-4")
    async def test_a_server_that_is_full_says_when_to_come_back(self, served: Served) -> None:
        served.engine.refusal = Overloaded("server_is_overloaded", "Too many connections.")
        refusal = await turned_away(served)
        assert code_of(refusal) == (503, "server_is_overloaded")
        assert served.engine.rejections == []  # the engine has counted it
        assert int(refusal.response.headers["Retry-After"]) > 0

    async def test_a_defect_while_connecting_says_nothing_about_itself(
        self, served: Served
    ) -> None:
        served.engine.refusal = None
        served.engine.connections = None  # type: ignore[assignment] # the defect
        refusal = await turned_away(served)
        assert code_of(refusal) == (500, "server_error")
        assert b"NoneType" not in (refusal.response.body or b"")

    @pytest.mark.rule("HS-3")
    @pytest.mark.parametrize(
        "request_bytes",
        [
            handshake().replace(b"Version: 13", b"Version: 12"),
            handshake().replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"),
            handshake().replace(b"GET ", b"POST "),
            handshake(headers=["X-Long: " + "x" * 10_000]),
            handshake(headers=[f"X-{n}: y" for n in range(200)]),
        ],
        ids=["version", "key", "method", "long header", "many headers"],
    )
    async def test_what_is_no_handshake_is_refused_in_json(
        self, served: Served, request_bytes: bytes
    ) -> None:
        client = await RawClient.connect(served.port)
        client.writer.write(request_bytes)
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"]["code"] == "invalid_handshake"
        assert served.engine.rejections == ["invalid"]
        assert served.engine.connections.empty()
        await client.close()


class TestOrigin:
    @pytest.mark.parametrize("limits", [Limits(), Limits(allowed_origins=(ORIGIN,))])
    async def test_a_client_that_is_no_browser_sends_none(self, client: ClientConnection) -> None:
        await answers(client)

    @pytest.mark.parametrize("limits", [Limits(allowed_origins=(ORIGIN,))])
    async def test_an_allowed_origin_may_connect(self, served: Served) -> None:
        async with served.connect(Origin=ORIGIN) as client:
            await answers(client)

    @pytest.mark.rule("BR-1")
    @pytest.mark.parametrize("limits", [Limits(), Limits(allowed_origins=(ORIGIN,))])
    async def test_others_may_not(self, served: Served) -> None:
        others = [
            "null",
            "https://evil.example",
            ORIGIN + ".evil.example",
            ORIGIN.upper(),
            ORIGIN + ":8443",
            ORIGIN.replace("https", "http"),
            "http://localhost",
        ]
        for origin in others:
            assert code_of(await turned_away(served, Origin=origin)) == (403, "origin_not_allowed")
        assert served.engine.rejections == ["origin"] * len(others)
        assert served.engine.connections.empty()

    @pytest.mark.parametrize("limits", [Limits(allowed_origins=(ORIGIN,))])
    async def test_two_origins_are_one_too_many(self, served: Served) -> None:
        client = await RawClient.connect(served.port)
        client.writer.write(handshake(headers=[f"Origin: {ORIGIN}", "Origin: https://evil"]))
        assert (await client.head()).startswith("HTTP/1.1 403 ")
        await client.close()


class TestKeys:
    @pytest.fixture
    def key(self, tmp_path: Path) -> str:
        key, line = new_key("acme")
        (tmp_path / "keys").write_text(line)
        return key

    @pytest.fixture
    def keys(self, key: str, tmp_path: Path) -> KeyFile:
        return KeyFile.read(tmp_path / "keys")

    @pytest.mark.rule("HS-2")
    async def test_a_key_says_whose_connection_it_is(self, served: Served, key: str) -> None:
        async with served.connect(Authorization=f"Bearer {key}"):
            assert (await served.engine.connected()).tenant == "acme"

    @pytest.mark.rule("HS-2")
    async def test_a_wrong_key_and_none_get_the_same_answer(self, served: Served, key: str) -> None:
        answers = [
            await turned_away(served),
            await turned_away(served, Authorization="Bearer nonsense"),
            await turned_away(served, Authorization=f"Bearer {key[:-1]}x"),
            await turned_away(served, Authorization=f"Basic {key}"),
            await turned_away(served, f"/v1/responses?api_key={key}"),
        ]
        assert {code_of(answer) for answer in answers} == {(401, "invalid_api_key")}
        assert served.engine.rejections == ["auth"] * len(answers)
        assert len({bytes(answer.response.body) for answer in answers}) == 1


class TestMessages:
    @pytest.mark.rule("HS-7", "ER-3", "CX-3")
    @pytest.mark.parametrize(
        ("frame", "code"),
        [
            ("{", "invalid_json"),
            ("", "invalid_json"),
            ("[1]", None),
            ("[" * 5000 + "]" * 5000, None),
            ('{"type":"response.create","a":' + "[" * 5000, None),
            (b'{"type":"response.create"}', "invalid_frame_type"),
        ],
        ids=["malformed", "empty", "array", "deep", "deep inside", "binary"],
    )
    async def test_what_cannot_be_read_is_refused_and_the_connection_lives_on(
        self, client: ClientConnection, frame: str | bytes, code: str | None
    ) -> None:
        status, said = await refused(client, frame)
        assert status == 400
        assert said if code is None else said == code
        await answers(client)

    @pytest.mark.parametrize("frame", ["{}", '{"type":"no.such.event"}', '{"type":7}'])
    async def test_an_event_of_no_known_type_is_for_the_engine_to_refuse(
        self, client: ClientConnection, frame: str
    ) -> None:
        await client.send(frame)
        assert (await received(client))["delta"] == "other_json"
        await answers(client)

    @pytest.mark.rule("HS-8")
    async def test_a_message_may_come_in_fragments_with_pings_between_them(
        self, served: Served
    ) -> None:
        client = await RawClient.upgraded(served.port)
        client.send(Opcode.TEXT, CREATE[:7].encode(), fin=False)
        client.send(Opcode.PING, b"are you there")
        client.send(Opcode.CONT, b"", fin=False)
        assert await client.frame() == Frame(Opcode.PONG, b"are you there")
        client.send(Opcode.CONT, CREATE[7:].encode())
        assert event_in(await client.frame())["delta"] == "create"
        await client.close()

    @pytest.mark.parametrize(
        "split", [[b'{"a":"\xff"}'], [b'{"a":"\xe2\x82'], [b'{"a":"\xe2', b'\xff"}']]
    )
    async def test_text_that_is_not_utf8_ends_it(self, served: Served, split: list[bytes]) -> None:
        client = await RawClient.upgraded(served.port)
        client.send(Opcode.TEXT, split[0], fin=len(split) == 1)
        for rest in split[1:]:
            client.send(Opcode.CONT, rest)
        assert Close.parse((await client.frame()).data).code == 1007
        assert await (await served.engine.connected()).ended() is Ending.INVALID_FRAME
        await client.close()

    async def test_a_character_may_be_split_between_fragments(self, served: Served) -> None:
        client = await RawClient.upgraded(served.port)
        euro = CREATE.replace("hi", "€").encode()
        middle = euro.index(b"\xe2") + 1
        client.send(Opcode.TEXT, euro[:middle], fin=False)
        client.send(Opcode.CONT, euro[middle:])
        assert event_in(await client.frame())["delta"] == "create"
        await client.close()

    async def test_several_messages_of_one_read_are_received_in_order(self) -> None:
        wired = Wired(Limits())
        wired.feed(create(), Frame(Opcode.TEXT, b"{"), create())
        assert len(wired.connection.received) == 2
        assert [refusal.code for refusal in wired.connection.refused] == ["invalid_json"]
        wired.lose()

    async def test_what_came_before_the_clients_close_is_received(self) -> None:
        wired = Wired(Limits())
        wired.feed(create(), Frame(Opcode.CLOSE, Close(1000, "").serialize()))
        assert len(wired.connection.received) == 1
        assert [frame.opcode for frame in frames_of(wired.written)] == [Opcode.TEXT, Opcode.CLOSE]
        assert wired.transport.half_closed
        assert wired.connection.ending is Ending.GONE
        wired.lose()

    async def test_an_idle_connection_does_not_keep_its_last_message(self) -> None:
        wired = Wired(Limits())
        large = CREATE.replace("hi", "x" * KIB * KIB).encode()
        middle = len(large) // 2
        tracemalloc.start()
        try:
            wired.feed(Frame(Opcode.TEXT, large))
            wired.feed(
                Frame(Opcode.TEXT, large[:middle], fin=False), Frame(Opcode.CONT, large[middle:])
            )
            assert len(wired.connection.received) == 2
            wired.connection.received.clear()
            assert tracemalloc.get_traced_memory()[0] < 200 * KIB
        finally:
            tracemalloc.stop()
        wired.lose()


class TestBounds:
    @pytest.mark.rule("HS-8")
    @pytest.mark.parametrize("limits", [Limits(message_bytes=64 * KIB)])
    async def test_a_message_that_is_too_large_is_told_the_limit_before_the_end(
        self, served: Served, client: ClientConnection
    ) -> None:
        await answers(client)
        await client.send(json.dumps({"type": "response.create", "input": "x" * 200 * KIB}))
        event = await received(client)
        assert event["status"] == 413
        assert event["error"]["code"] == "message_too_large"
        assert "65536" in event["error"]["message"]
        end = await closed(client)
        assert end is not None
        assert end.code == 1009
        assert await (await served.engine.connected()).ended() is Ending.TOO_LARGE

    @pytest.mark.parametrize("limits", [Limits(message_bytes=64 * KIB)])
    async def test_fragments_count_together(self, served: Served) -> None:
        client = await RawClient.upgraded(served.port)
        client.send(Opcode.TEXT, b"x" * 60 * KIB, fin=False)
        client.send(Opcode.CONT, b"x" * 60 * KIB, fin=False)
        assert event_in(await client.frame())["error"]["code"] == "message_too_large"
        assert Close.parse((await client.frame()).data).code == 1009
        await client.close()

    async def test_a_length_that_is_a_lie_costs_nothing(self, served: Served) -> None:
        client = await RawClient.upgraded(served.port)
        client.writer.write(bytes((0x81, 0xFF)) + (1 << 40).to_bytes(8, "big") + b"mask")
        assert event_in(await client.frame())["status"] == 413
        assert Close.parse((await client.frame()).data).code == 1009
        await client.close()

    async def test_endless_empty_fragments_end_it(self) -> None:
        wired = Wired(Limits())
        wired.feed(Frame(Opcode.TEXT, b"", fin=False))
        empty = Frame(Opcode.CONT, b"", fin=False).serialize(mask=True)
        for _ in range(20):
            wired.protocol.data_received(empty * 1000)
        async with asyncio.timeout(10):
            while not wired.transport.half_closed:
                await asyncio.sleep(0)
        refusal, close = frames_of(wired.written)
        assert event_in(refusal)["error"]["code"] == "message_too_large"
        assert Close.parse(close.data).code == 1009
        wired.lose()

    async def test_a_flood_of_pings_ends_it_and_a_burst_does_not(self) -> None:
        wired = Wired(Limits())
        wired.feed(*[Frame(Opcode.PING, b"")] * 50)
        assert [frame.opcode for frame in frames_of(wired.written)] == [Opcode.PONG] * 50
        wired.transport.writes.clear()
        wired.feed(*[Frame(Opcode.PONG, b"")] * 100_000, create())
        refusal, close = frames_of(wired.written)
        assert event_in(refusal)["error"]["code"] == "too_many_control_frames"
        assert Close.parse(close.data).code == 1008
        assert wired.connection.ending is Ending.POLICY
        assert not wired.connection.received
        wired.lose()

    @pytest.mark.rule("HS-10")
    async def test_a_close_inside_a_fragmented_message_is_answered_with_a_close(
        self, served: Served
    ) -> None:
        client = await RawClient.upgraded(served.port)
        client.send(Opcode.TEXT, b"{", fin=False)
        client.send(Opcode.CLOSE, Close(1000, "bye").serialize())
        assert Close.parse((await client.frame()).data) == Close(1000, "bye")
        assert await (await served.engine.connected()).ended() is Ending.GONE
        await client.close()

    @pytest.mark.parametrize(
        "data",
        [
            Frame(Opcode.TEXT, b"{}").serialize(mask=False),
            bytes((0xC1, 0x80)) + b"mask",
            bytes((0x83, 0x80)) + b"mask",
            Frame(Opcode.CONT, b"{}").serialize(mask=True),
        ],
        ids=["unmasked", "reserved bit", "reserved opcode", "nothing to continue"],
    )
    async def test_what_breaks_the_rules_of_frames_ends_it(self, data: bytes) -> None:
        wired = Wired(Limits())
        wired.protocol.data_received(data)
        (close,) = frames_of(wired.written)
        assert Close.parse(close.data).code == 1002
        assert wired.connection.ending is Ending.INVALID_FRAME
        wired.lose()


class TestSending:
    async def test_frames_of_every_length_arrive(
        self, served: Served, client: ClientConnection
    ) -> None:
        sink = (await served.engine.connected()).sink
        empty = len(to_json(text("")))
        for length in (empty, 255, 256, 1023, 1024, 65_535, 65_536, 200_000):
            sink.deliver([text("x" * (length - empty))])
            assert (await received(client))["delta"] == "x" * (length - empty)

    async def test_headers_are_those_of_the_library(self) -> None:
        for length in (0, 1, 125, 126, 127, 1023, 1024, 65_535, 65_536):
            frame = Frame(Opcode.TEXT, bytes(length)).serialize(mask=False)
            assert _header(length) == frame[: len(frame) - length]

    async def test_what_one_tick_delivers_is_one_write(self) -> None:
        wired = Wired(Limits())
        for number in range(10):
            wired.connection.sink.deliver([text(str(number)), text("and")])
        assert wired.transport.writes == []
        await asyncio.sleep(0)  # the tick ends
        assert len(wired.transport.writes) == 1
        frames = frames_of(wired.written)
        assert {frame.opcode for frame in frames} == {Opcode.TEXT}
        assert [event_in(frame)["delta"] for frame in frames[::2]] == list("0123456789")
        wired.lose()

    async def test_what_is_delivered_while_the_socket_is_full_goes_out_as_one_write(self) -> None:
        wired = Wired(Limits())
        wired.protocol.pause_writing()
        for number in range(3):
            wired.connection.sink.deliver([text(str(number))])
            await asyncio.sleep(0)
        assert wired.transport.writes == []
        wired.protocol.resume_writing()
        assert len(wired.transport.writes) == 1
        assert len(frames_of(wired.written)) == 3
        wired.lose()

    @pytest.mark.rule("LV-3")
    async def test_a_ping_is_answered_while_a_turn_streams(self, served: Served) -> None:
        served.engine.script = stream_until_closed
        async with served.connect() as client:
            await client.send(CREATE)
            await received(client)
            pong = await client.ping()
            async with asyncio.timeout(5):
                await pong
            assert not (await served.engine.connected()).closed.is_set()

    async def test_delivering_to_a_connection_that_is_gone_does_nothing(self) -> None:
        wired = Wired(Limits())
        wired.lose()
        wired.connection.sink.deliver([text("late")])
        wired.connection.sink.end(SessionError(Ending.AGE, "late"))
        await wired.connection.sink.drained()
        assert wired.transport.writes == []

    async def test_a_defect_in_an_event_ends_the_connection_and_is_not_raised(self) -> None:
        wired = Wired(Limits())
        wired.connection.sink.deliver([None])  # type: ignore[list-item] # the defect
        (close,) = frames_of(wired.written)
        assert Close.parse(close.data) == Close(1011, "internal_error")
        assert wired.connection.ending is Ending.INTERNAL
        wired.lose()

    async def test_a_defect_in_the_engine_ends_the_connection(self) -> None:
        wired = Wired(Limits(), script=break_down)
        wired.feed(create(), create())
        (close,) = frames_of(wired.written)
        assert Close.parse(close.data).code == 1011
        assert len(wired.connection.received) == 1
        wired.lose()


def break_down(connection: ScriptedConnection, event: events_pb2.ClientEvent) -> None:
    raise LookupError("private words of a client")


def stream_until_closed(connection: ScriptedConnection, event: events_pb2.ClientEvent) -> None:
    if not connection.closed.is_set() and not connection.sink.congested:
        connection.sink.deliver([text("more")])
    if not connection.closed.is_set():
        asyncio.get_running_loop().call_later(0.001, stream_until_closed, connection, event)


class TestFloods:
    async def test_tiny_messages_are_read_a_bounded_part_at_a_time(self) -> None:
        wired = Wired(Limits())
        wired.feed(*[Frame(Opcode.TEXT, b"")] * 20_000)
        assert 0 < len(wired.connection.refused) < 5_000
        assert not wired.transport.reading
        async with asyncio.timeout(10):
            while len(wired.connection.refused) < 20_000:
                await asyncio.sleep(0)
        assert wired.transport.reading
        wired.lose()

    async def test_nothing_is_read_from_a_client_that_does_not_read(self) -> None:
        wired = Wired(Limits(outbound_bytes=200_000))
        wired.protocol.pause_writing()
        wired.feed(*[Frame(Opcode.TEXT, b"")] * 5000)
        wired.feed(*[Frame(Opcode.TEXT, b"")] * 5000)
        refused = len(wired.connection.refused)
        await asyncio.sleep(0)
        assert len(wired.connection.refused) == refused < 10_000
        assert not wired.transport.reading
        wired.protocol.resume_writing()
        assert len(wired.connection.refused) > refused
        wired.lose()


class TestSlowReaders:
    @pytest.mark.rule("LV-7")
    @pytest.mark.parametrize("limits", [Limits(outbound_bytes=32 * KIB, send_deadline=0.2)])
    async def test_one_is_cut_after_the_deadline_and_others_are_not_disturbed(
        self, served: Served
    ) -> None:
        slow = await RawClient.upgraded(served.port)
        connection = await served.engine.connected()
        connection.sink.deliver([text("x" * 32 * KIB * KIB)])
        assert connection.sink.congested
        async with served.connect() as other:
            await answers(other)
            assert await connection.ended() is Ending.SLOW_READER
            await answers(other)
        async with asyncio.timeout(5):
            await connection.sink.drained()
        await slow.close()

    async def test_one_that_makes_progress_is_not_cut(self) -> None:
        wired = Wired(Limits(send_deadline=10))
        wired.transport.accepts = False
        for seconds in range(0, 60, 5):
            wired.connection.sink.deliver([text("x" * 1000)])
            await asyncio.sleep(0)
            wired.transport.buffered = min(wired.transport.buffered, 1100)  # the one before is out
            wired.protocol.data_received(Frame(Opcode.PONG, b"").serialize(mask=True))
            wired.after(seconds)
        assert not wired.transport.aborted
        wired.after(59)
        wired.after(70)
        assert wired.transport.aborted
        assert wired.connection.ending is Ending.SLOW_READER
        wired.lose()

    async def test_one_that_reads_a_large_backlog_steadily_is_not_cut(self) -> None:
        wired = Wired(Limits(send_deadline=10))
        wired.transport.accepts = False
        wired.connection.sink.deliver([text("x" * 1_000_000)])
        await asyncio.sleep(0)
        for seconds in range(0, 60, 5):
            wired.transport.buffered -= 70_000
            wired.feed(Frame(Opcode.PONG, b""))
            wired.after(seconds)
        assert not wired.transport.aborted
        wired.after(66)
        assert wired.transport.aborted
        wired.lose()

    async def test_an_event_of_any_size_is_waited_for(self) -> None:
        wired = Wired(Limits(outbound_bytes=1000))
        wired.protocol.pause_writing()
        for _ in range(3):
            wired.connection.sink.deliver([text("x" * 5000)])
        assert not wired.transport.aborted
        wired.lose()

    async def test_one_that_is_fed_on_and_does_not_read_is_cut(self) -> None:
        wired = Wired(Limits(outbound_bytes=1000, send_deadline=0.05))
        wired.protocol.pause_writing()
        async with asyncio.timeout(5):
            while not wired.transport.aborted:
                wired.connection.sink.deliver([text("x" * 5000)])
                await asyncio.sleep(0.01)
        assert wired.connection.ending is Ending.SLOW_READER
        wired.lose()

    @pytest.mark.parametrize("limits", [Limits(outbound_bytes=32 * KIB)])
    async def test_one_that_reads_again_is_drained(
        self, served: Served, client: ClientConnection
    ) -> None:
        sink = (await served.engine.connected()).sink
        sink.deliver([text("x" * 16 * KIB * KIB)])
        assert sink.congested
        waiting = [asyncio.create_task(sink.drained()) for _ in range(3)]
        waiting.pop().cancel()  # one turn's end must not concern the others
        assert len((await received(client))["delta"]) == 16 * KIB * KIB
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)
        assert not sink.congested


class TestDeadlines:
    @pytest.mark.rule("LV-4")
    async def test_a_silent_client_is_asked_for_a_sign_of_life(self) -> None:
        wired = Wired(Limits(ping_interval=20, ping_timeout=10))
        wired.after(19)
        assert wired.transport.writes == []
        wired.after(21)
        wired.after(25)
        assert frames_of(wired.written) == [Frame(Opcode.PING, b"")]
        wired.after(32)
        assert Close.parse(frames_of(wired.written)[1].data) == Close(1001, "idle_timeout")
        assert wired.connection.ending is Ending.IDLE
        wired.lose()

    async def test_anything_received_is_a_sign_of_life(self) -> None:
        wired = Wired(Limits(ping_interval=20, ping_timeout=10))
        wired.after(21)
        wired.feed(create())
        wired.after(18)
        assert wired.connection.ending is None
        wired.lose()

    async def test_a_message_must_arrive_in_time(self) -> None:
        wired = Wired(Limits(receive_deadline=30, ping_interval=100))
        wired.protocol.data_received(create().serialize(mask=True)[:-5])
        wired.after(29)
        assert wired.transport.writes == []
        wired.after(31)
        refusal, close = frames_of(wired.written)
        assert event_in(refusal)["error"]["code"] == "message_timeout"
        assert Close.parse(close.data).code == 1001
        assert wired.connection.ending is Ending.IDLE
        wired.lose()

    async def test_an_open_fragmented_message_must_be_finished_in_time(self) -> None:
        wired = Wired(Limits(receive_deadline=30, ping_interval=100))
        wired.feed(Frame(Opcode.TEXT, b"{", fin=False), Frame(Opcode.PING, b""))
        wired.after(31)
        assert wired.connection.ending is Ending.IDLE
        wired.lose()

    async def test_each_message_has_a_deadline_of_its_own(self) -> None:
        wired = Wired(Limits(receive_deadline=30, ping_interval=100))
        whole = create().serialize(mask=True)
        wired.protocol.data_received(whole[:-5])
        wired.protocol.data_received(whole[-5:])
        wired.after(31)
        assert wired.connection.ending is None
        wired.lose()

    @pytest.mark.parametrize("limits", [Limits(ping_interval=0.1, ping_timeout=1.0)])
    async def test_a_dead_client_is_found_by_the_wheel_and_a_living_one_is_not(
        self, served: Served, client: ClientConnection
    ) -> None:
        living = await served.engine.connected()
        dead = await RawClient.upgraded(served.port)
        connection = await served.engine.connected()
        assert await dead.frame() == Frame(Opcode.PING, b"")
        assert await connection.ended() is Ending.IDLE
        await dead.close()
        assert not living.closed.is_set()
        await answers(client)

    @pytest.mark.parametrize("limits", [Limits(send_deadline=0.1)])
    async def test_a_client_that_does_not_answer_the_close_is_dropped(self, served: Served) -> None:
        client = await RawClient.upgraded(served.port)
        connection = await served.engine.connected()
        connection.sink.end(SessionError(Ending.AGE, "too old"))
        assert Close.parse((await client.frame()).data).code == 1001
        assert await connection.ended() is Ending.AGE
        await client.close()


class TestEnding:
    @pytest.mark.parametrize("ending", sorted(Ending, key=str))
    async def test_the_engine_ends_it_after_what_is_unsent(
        self, served: Served, client: ClientConnection, ending: Ending
    ) -> None:
        connection = await served.engine.connected()
        connection.sink.deliver([text("last words")])
        connection.sink.end(SessionError(ending, "for a reason"))
        connection.sink.deliver([text("too late")])
        assert (await received(client))["delta"] == "last words"
        end = await closed(client)
        assert end == Close(STATUS[ending].close_code, ending.value)
        assert await connection.ended() is ending

    async def test_even_what_a_full_socket_holds_back_goes_before_the_close(self) -> None:
        wired = Wired(Limits())
        wired.protocol.pause_writing()
        wired.connection.sink.deliver([text("last words")])
        wired.connection.sink.end(SessionError(Ending.DRAIN, "bye"))
        words, close = frames_of(wired.written)
        assert event_in(words)["delta"] == "last words"
        assert Close.parse(close.data) == Close(1012, "draining")
        wired.lose()

    async def test_an_ending_while_the_clients_close_is_read_does_not_close_twice(self) -> None:
        wired = Wired(Limits(), script=end_it)
        wired.feed(create(), Frame(Opcode.CLOSE, Close(1000, "").serialize()))
        assert [frame.opcode for frame in frames_of(wired.written)] == [Opcode.CLOSE]
        wired.lose()

    async def test_a_client_that_closes_is_gone(self, served: Served) -> None:
        async with served.connect() as client:
            connection = await served.engine.connected()
            await client.close(1000, "done")
        assert client.close_code == 1000
        assert await connection.ended() is Ending.GONE

    @pytest.mark.rule("CX-4")
    @pytest.mark.parametrize("how", ["reset", "end of stream"])
    async def test_a_client_that_vanishes_in_a_turn_is_gone(self, served: Served, how: str) -> None:
        served.engine.script = stream_until_closed
        client = await RawClient.upgraded(served.port)
        client.send(Opcode.TEXT, CREATE.encode())
        connection = await served.engine.connected()
        await client.frame()
        if how == "reset":
            client.writer.transport.abort()
        else:
            client.writer.write_eof()
        assert await connection.ended() is Ending.GONE
        await client.close() if how != "reset" else None

    async def test_stopping_the_server_ends_what_is_open(
        self, served: Served, client: ClientConnection
    ) -> None:
        connection = await served.engine.connected()
        stopping = asyncio.create_task(served.http.stop())
        end = await closed(client)
        assert end == Close(1012, "draining")
        async with asyncio.timeout(5):
            await stopping
        assert connection.ending is Ending.DRAIN

    async def test_nothing_stays_on_the_wheel(self, served: Served) -> None:
        clients = [await RawClient.upgraded(served.port) for _ in range(5)]
        refused_client = await RawClient.connect(served.port)
        refused_client.writer.write(handshake("/elsewhere"))
        await refused_client.rest()
        await refused_client.close()
        assert len(served.wheel) >= 5
        for client in clients:
            await client.close()
        await served.http.stop()
        assert len(served.wheel) == 0


def end_it(connection: ScriptedConnection, event: events_pb2.ClientEvent) -> None:
    connection.sink.end(SessionError(Ending.DRAIN, "bye"))
