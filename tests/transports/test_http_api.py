"""The HTTP face over real sockets, with a scripted engine behind it."""

import asyncio
import contextlib
import gc
import json
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

from service.errors import Ending, Overloaded, RateLimited, SessionError, Unauthenticated
from service.identity import Anonymous, Credentials, Identities, Identity
from service.limits import Limits
from tests.transports.conftest import Served
from tests.transports.scripted import RawClient, ScriptedConnection, text
from tests.transports.scripted_http import (
    HttpEngine,
    chunk,
    client_of,
    completed,
    nothing,
    page,
    request,
    said,
)
from transports.endpoint import Endpoint
from transports.http import Address, serve_endpoint, wheel_for
from transports.keepalive import Wheel
from turnwire.delta import Event
from turnwire.v1 import events_pb2, responses_pb2

CREATE = {"model": "m", "input": "hi"}
STREAM = {**CREATE, "stream": True}
KEEPALIVE = events_pb2.ServerEvent(keepalive=events_pb2.Keepalive())


class Api(Served):
    """A server under test, with the engine as this face sees it."""

    engine: HttpEngine

    async def post(self, body: object = None, path: str = "/v1/responses") -> RawClient:
        """Send a request, and do not read the answer."""
        client = await RawClient.connect(self.port)
        client.writer.write(request("POST", path, json.dumps(body or STREAM).encode()))
        return client


@pytest.fixture
async def served(limits: Limits, keys: Identities) -> AsyncIterator[Api]:
    engine = HttpEngine()
    endpoint = Endpoint(engine.port, keys, limits, wheel_for(limits))
    http_server = await serve_endpoint(endpoint, Address("127.0.0.1", 0))
    yield Api(engine, http_server, endpoint.wheel)
    await http_server.stop()


@pytest.fixture
async def http(served: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(served.port) as client:
        yield client


def error_of(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    assert set(error) == {"type", "code", "message", "param"}
    return answer.status_code, error["code"], error["param"]


# Creating responses.


@pytest.mark.rule("HT-1", "HT-6")
@pytest.mark.parametrize("path", ["/v1/responses", "/responses"])
async def test_a_create_is_answered_with_the_response_as_it_ended(
    served: Api, http: httpx.AsyncClient, path: str
) -> None:
    answer = await http.post(path, json=CREATE)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json()["id"] == "resp_1"
    connection = await served.engine.connected()
    assert connection.received[0].create.input_text == "hi"
    assert await connection.ended() is Ending.GONE


async def test_every_answer_has_an_id_of_its_own(http: httpx.AsyncClient) -> None:
    answers = [await http.post("/v1/responses", json=CREATE) for _ in range(2)]
    answers += [await http.get("/v1/responses"), await http.put("/v1/responses")]
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == 4


@pytest.mark.rule("HT-1", "HT-2")
async def test_a_stream_has_the_events_and_then_says_that_it_is_done(
    served: Api, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v1/responses", json=STREAM)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    delta, end, done, nothing_more = answer.text.split("\n\n")
    assert delta.startswith('event: response.output_text.delta\ndata: {"type":"response.output')
    assert end.startswith('event: response.completed\ndata: {"type":"response.completed"')
    assert (done, nothing_more) == ("data: [DONE]", "")
    assert await (await served.engine.connected()).ended() is Ending.GONE


@pytest.mark.rule("HT-2")
async def test_every_event_is_a_write_of_its_own(served: Api) -> None:
    client = await served.post()
    assert "transfer-encoding: chunked" in await client.head()
    assert (await chunk(client)).startswith(b"event: response.output_text.delta\n")
    assert (await chunk(client)).startswith(b"event: response.completed\n")
    assert await chunk(client) == b"data: [DONE]\n\n"
    await client.close()


@pytest.mark.rule("LV-1")
async def test_signs_of_life_are_comments_that_no_client_takes_for_events(
    served: Api, http: httpx.AsyncClient
) -> None:
    served.engine.script = lambda connection, _: connection.sink.deliver([KEEPALIVE, completed()])
    answer = await http.post("/v1/responses", json=STREAM)
    assert answer.text.startswith(": keepalive\n\nevent: response.completed\n")
    assert (await http.post("/v1/responses", json=CREATE)).json()["id"] == "resp_1"


async def test_what_comes_after_the_last_event_is_not_told(
    served: Api, http: httpx.AsyncClient
) -> None:
    def talkative(connection: ScriptedConnection, _: events_pb2.ClientEvent) -> None:
        connection.sink.deliver([completed(), text("more")])
        connection.sink.deliver([RateLimited("No more.").event()])
        connection.sink.end(SessionError(Ending.DRAIN, "Going away."))

    served.engine.script = talkative
    [event] = await said(await http.post("/v1/responses", json=STREAM))
    assert event["type"] == "response.completed"
    assert (await http.post("/v1/responses", json=CREATE)).status_code == 200
    assert await (await served.engine.connected()).ended() is Ending.DRAIN


@pytest.mark.rule("ER-6")
@pytest.mark.parametrize("body", [CREATE, STREAM])
async def test_a_refusal_is_a_status_with_the_headers_that_it_asks_for(
    served: Api, http: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    refusal = RateLimited("Wait.").event()
    refusal.error.headers["retry-after"] = "7"
    served.engine.script = lambda connection, _: connection.sink.deliver([refusal])
    answer = await http.post("/v1/responses", json=body)
    assert error_of(answer) == (429, "rate_limit_exceeded", None)
    assert answer.headers["Retry-After"] == "7"
    assert await (await served.engine.connected()).ended() is Ending.GONE


@pytest.mark.rule("ER-6")
async def test_an_error_behind_other_events_is_an_event(
    served: Api, http: httpx.AsyncClient
) -> None:
    error = RateLimited("Wait.").event()
    served.engine.script = lambda connection, _: connection.sink.deliver([text("a"), error])
    answer = await http.post("/v1/responses", json=STREAM)
    told = [(event["type"], event["sequence_number"]) for event in await said(answer)]
    assert told == [("response.output_text.delta", 0), ("error", 1)]
    assert "[DONE]" not in answer.text


@pytest.mark.parametrize("body", [CREATE, STREAM])
async def test_an_engine_that_goes_away_before_anything_was_said_is_unavailable(
    served: Api, http: httpx.AsyncClient, body: dict[str, Any]
) -> None:
    going = SessionError(Ending.DRAIN, "Going away.")
    served.engine.script = lambda connection, _: connection.sink.end(going)
    answer = await http.post("/v1/responses", json=body)
    assert error_of(answer) == (503, "server_is_overloaded", None)
    assert answer.headers["Retry-After"]
    assert await (await served.engine.connected()).ended() is Ending.DRAIN


@pytest.mark.rule("LV-6")
async def test_an_engine_that_goes_away_in_the_middle_says_so(
    served: Api, http: httpx.AsyncClient
) -> None:
    def leave(connection: ScriptedConnection, _: events_pb2.ClientEvent) -> None:
        connection.sink.deliver([text("a")])
        connection.sink.end(SessionError(Ending.DRAIN, "Going away."))

    served.engine.script = leave
    events = await said(await http.post("/v1/responses", json=STREAM))
    assert events[-1]["error"]["code"] == "server_is_overloaded"


@pytest.mark.rule("HS-4")
async def test_a_full_server_is_unavailable_and_says_when_to_come_again(
    served: Api, http: httpx.AsyncClient
) -> None:
    served.engine.refusal = Overloaded("server_is_overloaded", "Too many connections.")
    answer = await http.post("/v1/responses", json=STREAM)
    assert error_of(answer) == (503, "server_is_overloaded", None)
    assert answer.headers["Retry-After"]


async def test_an_event_that_cannot_be_written_ends_the_stream_in_words(
    served: Api, http: httpx.AsyncClient
) -> None:
    broken = events_pb2.ServerEvent(other_json="no json")
    served.engine.script = lambda connection, _: connection.sink.deliver([text("a"), broken])
    events = await said(await http.post("/v1/responses", json=STREAM))
    assert events[-1]["error"]["code"] == "server_error"


@pytest.mark.rule("CR-24")
@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'{"model": 3}', "invalid_type", "model"),
        (b'{"model": "m", "stream_id": "a"}', "invalid_value", "stream_id"),
    ],
)
async def test_a_body_that_cannot_be_understood_is_refused(
    http: httpx.AsyncClient, body: bytes, code: str, param: str | None
) -> None:
    for path in ("/v1/responses", "/v1/responses/compact"):
        assert error_of(await http.post(path, content=body)) == (400, code, param)


@pytest.mark.rule("CR-13")
async def test_in_the_background_a_response_is_started_and_not_waited_for(
    served: Api, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v1/responses", json={**CREATE, "background": True})
    assert answer.json()["status"] == "queued"
    assert served.engine.started[0].input_text == "hi"
    assert served.engine.connections.empty()


async def test_what_was_started_in_the_background_can_be_watched(
    served: Api, http: httpx.AsyncClient
) -> None:
    served.engine.batches.put_nowait([text("a"), completed()])
    answer = await http.post("/v1/responses", json={**STREAM, "background": True})
    assert len(await said(answer)) == 2
    assert served.engine.responses.made == [("follow", "anonymous", "resp_1", None)]


# Clients that leave, or do not read.


@pytest.mark.rule("SS-10")
@pytest.mark.parametrize("body", [CREATE, STREAM])
async def test_a_client_that_leaves_before_the_first_event_ends_its_connection(
    served: Api, body: dict[str, Any]
) -> None:
    served.engine.script = nothing
    client = await served.post(body)
    connection = await served.engine.connected()
    await client.close()
    assert await connection.ended() is Ending.GONE


@pytest.mark.rule("SS-10")
async def test_a_client_that_leaves_in_the_middle_ends_its_connection(served: Api) -> None:
    served.engine.script = lambda connection, _: connection.sink.deliver([text("a")])
    client = await served.post()
    connection = await served.engine.connected()
    await chunk_after_head(client)
    await client.close()
    assert await connection.ended() is Ending.GONE


async def chunk_after_head(client: RawClient) -> bytes:
    await client.head()
    return await chunk(client)


@pytest.mark.rule("LV-7")
@pytest.mark.parametrize("limits", [Limits(outbound_bytes=100_000, send_deadline=0.3)])
async def test_a_client_that_does_not_read_holds_up_the_engine_and_is_cut(served: Api) -> None:
    served.engine.script = nothing
    client = await served.post()
    connection = await served.engine.connected()
    async with asyncio.timeout(5):
        while not connection.sink.congested:
            connection.sink.deliver([text("x" * 50_000)])
            await asyncio.sleep(0)
        await connection.sink.drained()
    assert await connection.ended() is Ending.SLOW_READER
    client.writer.transport.abort()


@pytest.mark.parametrize("limits", [Limits(outbound_bytes=100_000, send_deadline=0.3)])
async def test_an_engine_that_goes_on_all_the_same_has_its_client_cut(served: Api) -> None:
    served.engine.script = nothing
    client = await served.post()
    connection = await served.engine.connected()
    async with asyncio.timeout(5):
        while not connection.closed.is_set():
            connection.sink.deliver([text("x" * 50_000)])
            await asyncio.sleep(0.01)
    assert await connection.ended() is Ending.SLOW_READER
    assert not connection.sink.congested
    client.writer.transport.abort()


@pytest.mark.parametrize("limits", [Limits(outbound_bytes=100_000, send_deadline=0.3)])
async def test_a_client_that_reads_gets_everything_however_much_it_is(
    served: Api, http: httpx.AsyncClient
) -> None:
    served.engine.script = nothing

    async def speak() -> None:
        connection = await served.engine.connected()
        for _ in range(400):
            connection.sink.deliver([text("x" * 50_000)])
            if connection.sink.congested:
                await connection.sink.drained()
        connection.sink.deliver([completed()])

    speaking = asyncio.create_task(speak())
    size = 0
    async with http.stream("POST", "/v1/responses", json=STREAM) as answer:
        async for part in answer.aiter_bytes():
            size += len(part)
    await speaking
    assert size > 400 * 50_000


@pytest.mark.parametrize("limits", [Limits(send_deadline=0.3)])
async def test_an_answer_that_is_not_read_is_dropped_although_it_is_complete(served: Api) -> None:
    large = events_pb2.ResponseEvent()
    large.response.output.add().message.content.add().output_text.text = "x" * 20_000_000
    event = events_pb2.ServerEvent(completed=large)
    served.engine.script = lambda connection, _: connection.sink.deliver([event])
    client = await served.post(CREATE)
    await (await served.engine.connected()).ended()
    async with asyncio.timeout(5):
        while len(served.wheel):
            await asyncio.sleep(0)
    client.writer.transport.abort()


async def test_requests_that_follow_each_other_at_once_are_answered_in_turn(served: Api) -> None:
    client = await RawClient.connect(served.port)
    body = json.dumps(CREATE).encode()
    last = request("GET", "/v1/models", b"", "Connection: close")
    client.writer.write(2 * request("POST", "/v1/responses", body) + last)
    answers = await client.rest()
    assert answers.count(b"HTTP/1.1 200 OK") == 3
    assert answers.index(b'"id":"resp_1"') < answers.index(b'"object":"list"')
    await client.close()


# What is sent.


@pytest.mark.rule("HT-4", "HS-8")
@pytest.mark.parametrize("limits", [Limits(message_bytes=100_000)])
@pytest.mark.parametrize("size", [100_001, 10_000_000])
async def test_a_body_that_is_too_large_is_refused_to_a_client_that_is_still_sending(
    served: Api, http: httpx.AsyncClient, size: int
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b" " * (size // 10 + 1)

    for content in (b" " * size, pieces()):
        answer = await http.post("/v1/responses", content=content)
        assert error_of(answer) == (413, "message_too_large", None)
        assert answer.headers["Connection"] == "close"
    assert served.engine.connections.empty()


@pytest.mark.parametrize("limits", [Limits(message_bytes=100_000)])
async def test_a_client_that_asks_first_need_not_send_a_body_that_is_too_large(served: Api) -> None:
    client = await RawClient.connect(served.port)
    head = "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\n"
    client.writer.write(f"{head}Expect: 100-continue\r\nContent-Length: 200000\r\n\r\n".encode())
    assert (await client.head()).startswith("HTTP/1.1 413 ")
    await client.close()


@pytest.mark.parametrize("limits", [Limits(message_bytes=1_000, receive_deadline=0.2)])
async def test_a_client_that_is_told_to_stop_and_goes_on_is_dropped(served: Api) -> None:
    client = await RawClient.connect(served.port)
    client.writer.write(request("POST", "/v1/responses", b" " * 5_000)[:-1])
    assert (await client.head()).startswith("HTTP/1.1 413 ")
    with contextlib.suppress(ConnectionResetError):
        await client.rest()
    assert len(served.wheel) == 0
    await client.close()


@pytest.mark.parametrize("limits", [Limits(message_bytes=3_000_000)])
async def test_a_large_body_arrives_whole(served: Api, http: httpx.AsyncClient) -> None:
    await http.post("/v1/responses", json={**CREATE, "input": "x" * 2_900_000})
    connection = await served.engine.connected()
    assert len(connection.received[0].create.input_text) == 2_900_000


@pytest.mark.rule("HT-4")
@pytest.mark.parametrize("limits", [Limits(receive_deadline=0.2)])
async def test_a_body_that_does_not_arrive_is_refused_in_words(served: Api) -> None:
    client = await RawClient.connect(served.port)
    client.writer.write(request("POST", "/v1/responses", b"{}")[:-1])
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body)["error"]["code"] == "message_timeout"
    await client.close()


async def test_nonsense_behind_a_request_does_not_get_into_its_answer(served: Api) -> None:
    served.engine.script = lambda connection, _: connection.sink.deliver([text("a")])
    client = await served.post()
    connection = await served.engine.connected()
    await chunk_after_head(client)
    client.writer.write(b"nonsense\r\n\r\n")
    rest = b""
    with contextlib.suppress(ConnectionResetError):
        rest = await client.rest()
    assert rest == b""
    assert await connection.ended() is Ending.GONE
    await client.close()


async def test_a_body_that_makes_no_sense_is_refused_in_words(served: Api) -> None:
    client = await RawClient.connect(served.port)
    head = "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    client.writer.write(head.encode() + b"nonsense\r\n\r\n")
    answer = await client.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    await client.close()


@pytest.mark.parametrize("limits", [Limits(receive_deadline=0.2)])
async def test_what_waits_behind_a_long_answer_is_not_late(served: Api) -> None:
    served.engine.script = lambda connection, _: connection.sink.deliver([text("a")])
    body = json.dumps(STREAM).encode()
    first = request("POST", "/v1/responses", body)
    second = request("POST", "/v1/responses", body, "Connection: close")
    client = await RawClient.connect(served.port)
    client.writer.write(first + second[:-1])
    await chunk_after_head(client)
    await Moment.passes(served.wheel, 0.6)
    (await served.engine.connected()).sink.deliver([completed()])
    client.writer.write(second[-1:])
    (await served.engine.connected()).sink.deliver([completed()])
    assert (await client.rest()).count(b"event: response.completed") == 2
    await client.close()


class Moment:
    """A time that the wheel comes round to."""

    def __init__(self, at: float) -> None:
        self._at = at
        self._over = asyncio.Event()

    def tick(self, now: float) -> None:
        if now >= self._at:
            self._over.set()

    @classmethod
    async def passes(cls, wheel: Wheel, seconds: float) -> None:
        moment = cls(asyncio.get_running_loop().time() + seconds)
        wheel.add(moment)
        async with asyncio.timeout(10):
            await moment._over.wait()
        wheel.discard(moment)


@pytest.mark.rule("HT-4")
async def test_a_compressed_body_is_refused(http: httpx.AsyncClient) -> None:
    headers = {"Content-Encoding": "gzip"}
    answer = await http.post("/v1/responses", content=b"x" * 5_000_000, headers=headers)
    assert error_of(answer) == (415, "unsupported_content_encoding", None)
    assert (await http.post("/v1/responses", json=CREATE)).status_code == 200


# Who may ask for what.


class NoKeyWillDo(Anonymous):
    def identify(self, credentials: Credentials) -> Identity:
        raise Unauthenticated


@pytest.mark.rule("HS-2", "HS-3")
@pytest.mark.parametrize("keys", [NoKeyWillDo()])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/responses"),
        ("POST", "/v1/responses"),
        ("PATCH", "/v1/responses"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/v1/responses/compact"),
        ("GET", "/v1/models"),
        ("POST", "/v1/conversations"),
        ("GET", "/v1/conversations/conv_1/items"),
    ],
)
async def test_without_a_key_nothing_is_told(
    served: Api, http: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await http.request(method, path)
    assert error_of(answer) == (401, "invalid_api_key", None)
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert served.engine.refusals == [401]
    assert served.engine.rejections == []


class OneKey(Anonymous):
    def identify(self, credentials: Credentials) -> Identity:
        if credentials.authorization != "Bearer key":
            raise Unauthenticated
        return Identity("alice")


@pytest.mark.parametrize("keys", [OneKey()])
async def test_a_request_is_its_key_holders_and_two_keys_are_none(
    served: Api, http: httpx.AsyncClient
) -> None:
    await http.post("/v1/responses", json=CREATE, headers={"Authorization": "Bearer key"})
    assert (await served.engine.connected()).tenant == "alice"
    two = [("Authorization", "Bearer key"), ("Authorization", "Bearer key")]
    assert (await http.get("/v1/models", headers=two)).status_code == 401


@pytest.mark.rule("BR-1")
@pytest.mark.parametrize("headers", [{"Origin": "https://example.org"}, {"Host": "example.org"}])
async def test_a_web_page_that_nobody_allowed_is_turned_away(
    served: Api, http: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    answer = await http.post("/v1/responses", json=CREATE, headers=headers)
    assert answer.status_code == 403
    assert served.engine.refusals == [403]


@pytest.mark.rule("HT-5")
@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"])
async def test_a_method_that_is_not_there_is_told_which_are(
    http: httpx.AsyncClient, method: str
) -> None:
    answer = await http.request(method, "/v1/responses")
    assert answer.status_code == 405
    assert answer.headers["Allow"] == "GET, POST"
    if method != "HEAD":
        assert error_of(answer) == (405, "method_not_allowed", None)


# Responses that exist.


@pytest.mark.rule("HT-3")
async def test_what_is_asked_of_a_response_reaches_the_engine(
    served: Api, http: httpx.AsyncClient
) -> None:
    assert (await http.get("/v1/responses/resp_1")).json()["status"] == "completed"
    assert (await http.post("/v1/responses/resp_1/cancel")).json()["id"] == "resp_1"
    assert (await http.delete("/v1/responses/resp_1")).json() == {
        "id": "resp_1",
        "object": "response",
        "deleted": True,
    }
    query = {"after": "msg_1", "limit": "3", "order": "asc", "include": "x"}
    items = await http.get("/v1/responses/resp_1/input_items", params=query)
    assert items.json()["object"] == "list"
    assert served.engine.responses.made == [
        ("get", "anonymous", "resp_1"),
        ("cancel", "anonymous", "resp_1"),
        ("delete", "anonymous", "resp_1"),
        ("input_items", "anonymous", "resp_1", page("msg_1", 3, "asc")),
    ]


@pytest.mark.parametrize(
    ("path", "param"),
    [
        ("/v1/responses/resp_1/input_items?limit=many", "limit"),
        ("/v1/conversations/conv_1/items?limit=1e2", "limit"),
        ("/v1/responses/resp_1/input_items?limit=" + "9" * 5000, "limit"),
        ("/v1/responses/resp_1?stream=perhaps", "stream"),
        ("/v1/responses/resp_1?stream=true&starting_after=x", "starting_after"),
    ],
)
async def test_a_query_that_cannot_be_understood_is_refused(
    http: httpx.AsyncClient, path: str, param: str
) -> None:
    assert error_of(await http.get(path)) == (400, "invalid_value", param)


@pytest.mark.rule("RV-2")
async def test_a_response_is_told_again_from_where_the_client_was(
    served: Api, http: httpx.AsyncClient
) -> None:
    for batch in ([text("a")], [text("b"), text("c")], [completed()], None):
        served.engine.batches.put_nowait(batch)
    path = "/v1/responses/resp_1?stream=true&starting_after=4"
    answer = await http.get(path)
    *deltas, end = await said(answer)
    assert [event["delta"] for event in deltas] == ["a", "b", "c"]
    assert end["type"] == "response.completed"
    assert answer.text.endswith("data: [DONE]\n\n")
    assert served.engine.responses.made == [("follow", "anonymous", "resp_1", 4)]
    assert served.engine.follower_left.is_set()


async def test_a_response_with_no_more_events_is_told_as_done(
    served: Api, http: httpx.AsyncClient
) -> None:
    served.engine.batches.put_nowait(None)
    answer = await http.get("/v1/responses/resp_1?stream=true&starting_after=99")
    assert (answer.status_code, answer.text) == (200, "data: [DONE]\n\n")


@pytest.mark.parametrize("told", [[text("a")], []])
async def test_a_telling_that_ends_before_its_response_says_so_and_not_that_it_is_done(
    served: Api, http: httpx.AsyncClient, told: list[events_pb2.ServerEvent]
) -> None:
    served.engine.responses.answers["get"] = responses_pb2.Response(status="in_progress")
    for batch in (told, None):
        served.engine.batches.put_nowait(batch)
    answer = await http.get("/v1/responses/resp_1?stream=true")
    if told:
        error = (await said(answer))[-1]
        assert (error["status"], error["sequence_number"]) == (503, 1)
        assert "[DONE]" not in answer.text
    else:
        assert error_of(answer) == (503, "server_is_overloaded", None)


class Kept:
    """Something that a telling holds for as long as it lasts."""


@pytest.mark.parametrize("leaves", [False, True])
async def test_what_was_told_is_let_go_of_without_the_garbage_collectors_help(
    served: Api, http: httpx.AsyncClient, leaves: bool
) -> None:
    kept: weakref.ref[Kept] | None = None
    begun = asyncio.Event()

    async def tell(*_: object) -> AsyncGenerator[Sequence[Event], None]:
        return telling()

    async def telling() -> AsyncGenerator[Sequence[Event], None]:
        nonlocal kept
        held = Kept()
        kept = weakref.ref(held)
        yield [text("a")]
        begun.set()
        if leaves:
            await asyncio.Event().wait()
        yield [completed()]

    served.engine.responses.answers["follow"] = tell
    gc.disable()
    try:
        async with asyncio.timeout(5):
            async with http.stream("GET", "/v1/responses/resp_1?stream=true") as answer:
                await begun.wait()
                if not leaves:
                    await answer.aread()
            while kept is None or kept() is not None:
                await asyncio.sleep(0)
    finally:
        gc.enable()


@pytest.mark.rule("RV-6")
async def test_a_response_that_is_not_there_is_not_found_before_anything_is_streamed(
    served: Api, http: httpx.AsyncClient
) -> None:
    answer = await http.get("/v1/responses/resp_2?stream=true")
    assert error_of(answer) == (404, "not_found", "response_id")


async def test_a_client_that_leaves_is_not_followed_for(served: Api) -> None:
    client = await RawClient.connect(served.port)
    client.writer.write(request("GET", "/v1/responses/resp_1?stream=true"))
    served.engine.batches.put_nowait([text("a")])
    await chunk_after_head(client)
    await client.close()
    async with asyncio.timeout(5):
        await served.engine.follower_left.wait()


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (SessionError(Ending.SLOW_READER, "Too slow."), "server_is_overloaded"),
        (ZeroDivisionError(), "server_error"),
    ],
)
async def test_a_telling_that_fails_in_the_middle_says_so(
    served: Api, http: httpx.AsyncClient, failure: Exception, code: str
) -> None:
    served.engine.batches.put_nowait([text("a")])
    served.engine.batches.put_nowait(failure)
    events = await said(await http.get("/v1/responses/resp_1?stream=true"))
    assert events[-1]["error"]["code"] == code


async def test_a_compaction_is_stopped_when_its_client_leaves(served: Api) -> None:
    begun, stopped = asyncio.Event(), asyncio.Event()

    async def compact(*_: object) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    served.engine.responses.answers["compact"] = compact
    client = await served.post(CREATE, "/v1/responses/compact")
    async with asyncio.timeout(5):
        await begun.wait()
        await client.close()
        await stopped.wait()


@pytest.mark.rule("LV-6")
async def test_a_compaction_is_ended_when_the_server_goes_away(
    served: Api, http: httpx.AsyncClient
) -> None:
    async def compact(*_: object) -> None:
        await asyncio.Event().wait()

    served.engine.responses.answers["compact"] = compact
    answering = asyncio.create_task(http.post("/v1/responses/compact", json=CREATE))
    connection = await served.engine.connected()
    connection.sink.end(SessionError(Ending.DRAIN, "Going away."))
    assert error_of(await answering) == (503, "server_is_overloaded", None)
    assert await connection.ended() is Ending.DRAIN


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/conversations"),
        ("POST", "/v1/conversations/conv_1"),
        ("DELETE", "/v1/conversations/conv_1"),
        ("POST", "/v1/conversations/conv_1/items"),
        ("DELETE", "/v1/conversations/conv_1/items/msg_1"),
        ("POST", "/v1/responses/compact"),
    ],
)
async def test_while_the_server_goes_away_nothing_is_changed(
    served: Api, http: httpx.AsyncClient, method: str, path: str
) -> None:
    served.engine.refusal = Overloaded("server_is_overloaded", "Going away.")
    body = json.dumps({"model": "m", "metadata": {}, "items": []})
    answer = await http.request(method, path, content=body)
    assert error_of(answer) == (503, "server_is_overloaded", None)
    assert served.engine.refusals == [503]
    assert served.engine.conversations.made == []


async def test_a_large_answer_arrives_whole_and_as_it_is_read(
    served: Api, http: httpx.AsyncClient
) -> None:
    large = responses_pb2.Response(id="resp_1", status="completed")
    large.output.add().message.content.add().output_text.text = "x" * 3_000_000
    served.engine.responses.answers["get"] = large
    answers = await asyncio.gather(*(http.get("/v1/responses/resp_1") for _ in range(10)))
    assert {len(a.json()["output"][0]["content"][0]["text"]) for a in answers} == {3_000_000}


async def test_a_request_of_few_items_may_not_be_as_large_as_a_context(
    served: Api, http: httpx.AsyncClient
) -> None:
    answer = await http.post("/v1/conversations", content=b" " * (16 * 1024 * 1024 + 1))
    assert error_of(answer) == (413, "message_too_large", None)


async def test_a_compaction_is_an_object_of_its_own(http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/responses/compact", json=CREATE)
    assert answer.json()["object"] == "response.compaction"


@pytest.mark.rule("ER-5")
async def test_a_defect_is_told_without_its_words(served: Api, http: httpx.AsyncClient) -> None:
    served.engine.responses.answers["get"] = ZeroDivisionError("secret")
    answer = await http.get("/v1/responses/resp_1")
    assert error_of(answer) == (500, "server_error", None)
    assert "secret" not in answer.text


# Models and conversations.


@pytest.mark.rule("HT-3")
async def test_models_are_listed_and_found_by_name(http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/models")).json()["data"][0]["id"] == "org/model"
    for name in ("org/model", "org%2Fmodel"):
        assert (await http.get(f"/v1/models/{name}")).json()["owned_by"] == "simulator"
    assert error_of(await http.get("/v1/models/x")) == (404, "model_not_found", "model")


@pytest.mark.rule("HT-3")
async def test_what_is_asked_of_a_conversation_reaches_the_engine(
    served: Api, http: httpx.AsyncClient
) -> None:
    conversation, items = "/v1/conversations/conv_1", "/v1/conversations/conv_1/items"
    await http.post("/v1/conversations", json={"metadata": {"a": "b"}})
    await http.post("/v1/conversations")
    await http.get(conversation)
    await http.post(conversation, json={"metadata": {"a": "c"}, "conversation_id": "conv_2"})
    await http.delete(conversation)
    await http.get(items, params={"limit": 2})
    await http.post(items, json={"items": [{"role": "user", "content": "hi"}]})
    await http.get(f"{items}/msg_1")
    assert (await http.delete(f"{items}/msg_1")).json()["object"] == "conversation"
    made = served.engine.conversations.made
    assert [name for name, *_ in made] == [
        *("create", "create", "get", "update", "delete"),
        *("items", "add_items", "item", "delete_item"),
    ]
    assert made[0][2].metadata == {"a": "b"}
    assert made[3][2].conversation_id == made[6][2].conversation_id == "conv_1"
    assert made[5] == ("items", "anonymous", "conv_1", page("", 2))
    assert made[7] == ("item", "anonymous", "conv_1", "msg_1")
