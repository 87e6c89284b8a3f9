"""TLS on both ports, with real certificates: who gets in by them, and how they are renewed."""

import asyncio
import datetime as dt
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import httpx
import openai
import pytest
import structlog
from cryptography import x509
from prometheus_client import CollectorRegistry
from websockets.exceptions import InvalidMessage, InvalidStatus
from websockets.frames import Opcode

from service.errors import Ending, SessionError
from service.identity import Anonymous, Identities, Identity
from service.identity.authenticator import Authenticator, Method
from service.identity.certificates import CertificateNames
from service.identity.keys import KeyFile, new_key
from service.limits import MIB, Limits
from service.metrics import Metrics
from tests.service.identity.authority import DAY, LOCAL, SERVER, Authority, Issued, replace
from tests.service.identity.clock import Clock
from tests.transports.scripted import RawClient, ScriptedEngine, handshake, text
from tests.transports.secured import DEADLINE, Secured, models_over, secured
from transports.endpoint import Endpoint
from transports.http import Address, serve_endpoint, wheel_for
from transports.tls import NOTHING, Tls, TlsFiles, shown_in
from turnwire.v1 import session_service_pb2 as rpc
from turnwire.v1 import session_service_pb2_grpc as stubs

NAME = "spiffe://td/ns/agents/sa/one"
CREATE = json.dumps({"type": "response.create", "model": "simulator", "input": "hi"})


class Recorder:
    """Everyone who is let in, as the engine is told."""

    def __init__(self, identities: Identities) -> None:
        self._identities = identities
        self.anonymous = False
        self.seen: list[Identity] = []

    def identify(self, credentials: object) -> Identity:
        self.seen.append(self._identities.identify(credentials))  # type: ignore[arg-type]
        return self.seen[-1]

    def holds(self, identity: Identity) -> bool:
        return self._identities.holds(identity)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def stranger() -> Authority:
    return Authority("stranger")


@pytest.fixture
def key(tmp_path: Path) -> str:
    key, line = new_key("keyed")
    (tmp_path / "keys").write_text(line)
    return key


@pytest.fixture
def identities(tmp_path: Path, key: str) -> Recorder:
    assert key
    (tmp_path / "names").write_text(f"URI:{NAME} acme\nDNS:batch.example globex\n")
    ways: dict[Method, Identities] = {
        Method.KEY: KeyFile.read(tmp_path / "keys"),
        Method.CERTIFICATE: CertificateNames.read(tmp_path / "names"),
    }
    return Recorder(Authenticator(ways, lambda _: False, Metrics(CollectorRegistry())))


def files(folder: Path, issued: Issued, client_ca: bytes | None = None) -> TlsFiles:
    certificate, key = issued.write(folder, "server")
    if client_ca is None:
        return TlsFiles(certificate=certificate, key=key)
    replace(folder / "ca.crt", client_ca)
    return TlsFiles(certificate=certificate, key=key, client_ca=folder / "ca.crt")


@pytest.fixture
async def service(
    tmp_path: Path, identities: Recorder, authority: Authority
) -> AsyncIterator[Secured]:
    tls = files(tmp_path, authority.server(), authority.pem)
    async with secured(tmp_path, identities, tls) as service:
        yield service


async def turn_over_websocket(
    service: Secured, context: ssl.SSLContext, key: str | None = None
) -> str:
    """Have a turn, and return how it ended."""
    async with asyncio.timeout(DEADLINE), service.websocket(context, key) as client:
        await client.send(CREATE)
        async for frame in client:
            kind: str = json.loads(frame)["type"]
            if kind in ("response.completed", "response.failed", "error"):
                return kind
    raise AssertionError("the connection ended")


async def status_over_http(
    service: Secured, context: ssl.SSLContext, headers: dict[str, str] | None = None
) -> int:
    async with httpx.AsyncClient(verify=context, trust_env=False, timeout=DEADLINE) as client:
        url = f"https://localhost:{service.http_port}/v1/models"
        return (await client.get(url, headers=headers)).status_code


async def code_over_grpc(
    service: Secured, root: Authority, shown: Issued | None, key: str | None = None
) -> grpc.StatusCode:
    async with service.channel(root, shown) as channel:
        try:
            await models_over(channel, key)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


class TestNamesInCertificates:
    async def test_a_name_lets_its_tenant_in_over_every_face(
        self, service: Secured, authority: Authority, identities: Recorder
    ) -> None:
        shown = authority.client(NAME)
        context = service.client_context(authority, shown)
        assert await turn_over_websocket(service, context) == "response.completed"
        assert await status_over_http(service, context) == 200
        assert await code_over_grpc(service, authority, shown) is grpc.StatusCode.OK
        [one] = set(identities.seen)
        assert (one.tenant, one.credential) == ("acme", f"certificate:URI:{NAME}")
        assert len(identities.seen) == 3
        assert time.time() < one.expires <= time.time() + DAY.total_seconds()

    async def test_the_sdk_gets_in_by_its_certificate_when_it_sends_no_key(
        self, service: Secured, authority: Authority, identities: Recorder
    ) -> None:
        context = service.client_context(authority, authority.client(NAME))
        no_key = {"Authorization": openai.Omit()}
        async with openai.AsyncOpenAI(
            api_key="unused",
            base_url=f"https://localhost:{service.http_port}/v1",
            http_client=openai.DefaultAsyncHttpxClient(verify=context, trust_env=False),
            max_retries=0,
        ) as client:
            assert (await client.models.list(extra_headers=no_key)).data
            async with client.responses.connect(
                extra_headers=no_key,
                websocket_connection_options={"ssl": context},  # type: ignore[typeddict-unknown-key]
            ) as ws:
                await ws.response.create(model="simulator", input="hi")
                assert (await ws.recv()).type == "response.created"
        assert {identity.tenant for identity in identities.seen} == {"acme"}

    async def test_a_host_is_a_name_too(
        self, service: Secured, authority: Authority, identities: Recorder
    ) -> None:
        shown = authority.issue([x509.DNSName("Batch.example")])
        context = service.client_context(authority, shown)
        assert await status_over_http(service, context) == 200
        assert await code_over_grpc(service, authority, shown) is grpc.StatusCode.OK
        assert {identity.tenant for identity in identities.seen} == {"globex"}

    @pytest.mark.parametrize(
        "names",
        [
            [],
            [x509.UniformResourceIdentifier(f"{NAME}/x")],
            [x509.DNSName(NAME)],
            [x509.RFC822Name("batch.example@td")],
            [x509.UniformResourceIdentifier(NAME), x509.DNSName("batch.example")],
        ],
    )
    async def test_another_name_of_the_right_authority_is_refused(
        self, service: Secured, authority: Authority, names: list[x509.GeneralName]
    ) -> None:
        shown = authority.issue(names)
        context = service.client_context(authority, shown)
        with pytest.raises(InvalidStatus) as refused:
            await turn_over_websocket(service, context)
        assert refused.value.response.status_code == 401
        assert await status_over_http(service, context) == 401
        code = await code_over_grpc(service, authority, shown)
        assert code is grpc.StatusCode.UNAUTHENTICATED

    async def test_a_wrong_key_beside_a_good_certificate_is_refused(
        self, service: Secured, authority: Authority
    ) -> None:
        shown = authority.client(NAME)
        context = service.client_context(authority, shown)
        bad = {"Authorization": "Bearer tw_0_0"}
        assert await status_over_http(service, context, bad) == 401
        with pytest.raises(InvalidStatus):
            await turn_over_websocket(service, context, "tw_0_0")
        code = await code_over_grpc(service, authority, shown, "tw_0_0")
        assert code is grpc.StatusCode.UNAUTHENTICATED

    async def test_a_name_in_a_header_is_none(self, service: Secured, authority: Authority) -> None:
        context = service.client_context(authority)
        headers = {"X-Forwarded-Client-Cert": f"URI={NAME}", "X-Client-Cert-San": f"URI:{NAME}"}
        assert await status_over_http(service, context, headers) == 401


class TestCertificatesThatAreNoGood:
    """Row for row what mutual TLS has to turn away; a handshake that fails says no more than that."""

    @pytest.fixture(params=["stranger", "expired", "server", "alone"])
    def bad(
        self, request: pytest.FixtureRequest, authority: Authority, stranger: Authority
    ) -> Issued:
        name = [x509.UniformResourceIdentifier(NAME)]
        made = {
            "stranger": lambda: stranger.client(NAME),
            "expired": lambda: authority.issue(name, left=-DAY),
            "server": lambda: authority.issue(name, usage=SERVER),
            "alone": lambda: Authority("tests").client(NAME),  # of the same name, with another key
        }
        return made[request.param]()

    async def test_they_are_turned_away_in_the_handshake(
        self, service: Secured, authority: Authority, bad: Issued, key: str
    ) -> None:
        context = service.client_context(authority, bad)
        failures = (OSError, InvalidMessage, httpx.TransportError)
        for good in (None, key):
            with pytest.raises(failures):
                await turn_over_websocket(service, context, good)
            headers = {"Authorization": f"Bearer {good}"} if good else None
            with pytest.raises(failures):
                await status_over_http(service, context, headers)
            code = await code_over_grpc(service, authority, bad, good)
            assert code is grpc.StatusCode.UNAVAILABLE

    async def test_without_one_a_key_is_needed_and_grpc_lets_nobody_in(
        self, service: Secured, authority: Authority, key: str
    ) -> None:
        context = service.client_context(authority)
        with pytest.raises(InvalidStatus):
            await turn_over_websocket(service, context)
        assert await status_over_http(service, context) == 401
        assert await turn_over_websocket(service, context, key) == "response.completed"
        code = await code_over_grpc(service, authority, None, key)
        assert code is grpc.StatusCode.UNAVAILABLE


class TestServersWithoutACa:
    @pytest.fixture
    async def service(
        self, tmp_path: Path, identities: Recorder, authority: Authority
    ) -> AsyncIterator[Secured]:
        async with secured(tmp_path, identities, files(tmp_path, authority.server())) as service:
            yield service

    async def test_keys_work_over_every_face(
        self, service: Secured, authority: Authority, key: str
    ) -> None:
        context = service.client_context(authority)
        assert await turn_over_websocket(service, context, key) == "response.completed"
        headers = {"Authorization": f"Bearer {key}"}
        assert await status_over_http(service, context, headers) == 200
        assert await code_over_grpc(service, authority, None, key) is grpc.StatusCode.OK

    async def test_a_certificate_that_nobody_asked_for_says_nothing(
        self, service: Secured, authority: Authority
    ) -> None:
        shown = authority.client(NAME)
        assert await status_over_http(service, service.client_context(authority, shown)) == 401
        code = await code_over_grpc(service, authority, shown)
        assert code is grpc.StatusCode.UNAUTHENTICATED

    async def test_nothing_is_said_in_the_clear(self, service: Secured, key: str) -> None:
        async with service.channel(None) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await models_over(channel, key)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        reader, writer = await asyncio.open_connection("127.0.0.1", service.http_port)
        writer.write(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            try:
                answer = await reader.read()
            except ConnectionResetError:
                answer = b""
        assert b"HTTP" not in answer
        writer.close()

    @pytest.mark.parametrize("port", ["http_port", "grpc_port"])
    async def test_old_versions_of_tls_are_refused(
        self, service: Secured, authority: Authority, port: str
    ) -> None:
        context = service.client_context(authority)
        context.set_ciphers("ALL:@SECLEVEL=0")  # or this side would not even ask
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert await _shakes_hands(context, getattr(service, port))
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        assert not await _shakes_hands(context, getattr(service, port))

    async def test_http_is_agreed_on(self, service: Secured, authority: Authority) -> None:
        context = service.client_context(authority)
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("localhost", service.http_port, ssl=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.close()


class TestRenewal:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    async def service(
        self, tmp_path: Path, identities: Recorder, authority: Authority, clock: Clock
    ) -> AsyncIterator[Secured]:
        tls = files(tmp_path, authority.server(), authority.pem)
        async with secured(tmp_path, identities, tls, clock) as service:
            yield service

    async def test_new_connections_get_the_new_certificate_and_open_ones_go_on(
        self,
        service: Secured,
        authority: Authority,
        stranger: Authority,
        clock: Clock,
    ) -> None:
        shown = authority.client(NAME)
        context = service.client_context(authority, shown)
        async with (
            service.websocket(context) as client,
            service.channel(authority, shown) as channel,
        ):
            stream = stubs.SessionServiceStub(channel).Connect()
            await stream.initial_metadata()
            files(service.folder, stranger.server(), authority.pem)
            clock.now += 1
            assert await code_over_grpc(service, authority, shown) is grpc.StatusCode.UNAVAILABLE
            assert await code_over_grpc(service, stranger, shown) is grpc.StatusCode.OK
            with pytest.raises(ssl.SSLCertVerificationError):
                await turn_over_websocket(service, context)
            anew = service.client_context(stranger, shown)
            assert await turn_over_websocket(service, anew) == "response.completed"

            async with asyncio.timeout(DEADLINE):
                await client.send(CREATE)
                assert json.loads(await client.recv())["type"] == "response.created"
                request = rpc.ConnectRequest()
                request.events.add().create.settings.model = "simulator"
                request.events[0].create.input_text = "hi"
                await stream.write(request)
                answer = await stream.read()
                assert isinstance(answer, rpc.ConnectResponse)
                assert answer.events[0].HasField("created")
            stream.cancel()

    async def test_an_authority_that_is_taken_out_lets_nobody_in_any_more(
        self,
        service: Secured,
        authority: Authority,
        stranger: Authority,
        clock: Clock,
    ) -> None:
        before, after = authority.client(NAME), stranger.client(NAME)
        context = service.client_context(authority, before)
        assert await status_over_http(service, context) == 200
        replace(service.folder / "ca.crt", stranger.pem)
        clock.now += 1
        with pytest.raises(httpx.TransportError):
            await status_over_http(service, context)
        assert await status_over_http(service, service.client_context(authority, after)) == 200
        assert await code_over_grpc(service, authority, before) is grpc.StatusCode.UNAVAILABLE
        assert await code_over_grpc(service, authority, after) is grpc.StatusCode.OK

    async def test_files_that_do_not_fit_change_nothing(
        self, service: Secured, authority: Authority, stranger: Authority, clock: Clock
    ) -> None:
        shown = authority.client(NAME)
        context = service.client_context(authority, shown)
        half = authority.server()
        with structlog.testing.capture_logs() as logged:
            for content in (half.certificate, b"", b"-----BEGIN CERTIFICATE-----\nno\n"):
                replace(service.folder / "server.crt", content)
                clock.now += 1
                assert await status_over_http(service, context) == 200
                assert await code_over_grpc(service, authority, shown) is grpc.StatusCode.OK
        assert [record["event"] for record in logged] == ["file_not_reloaded"] * 3
        half.write(service.folder, "server")
        clock.now += 1
        assert await status_over_http(service, context) == 200


async def test_a_client_that_does_not_shake_hands_is_dropped(
    tmp_path: Path, identities: Recorder, authority: Authority
) -> None:
    tls, limits = files(tmp_path, authority.server()), Limits(handshake_deadline=0.2)
    async with secured(tmp_path, identities, tls, limits=limits) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.http_port)
        async with asyncio.timeout(DEADLINE):  # libraries would give it a minute
            assert await reader.read() == b""
        writer.close()


class TestWhatIsUnsent:
    """A client that reads late, or never: what waits for it is counted behind TLS as in front of it."""

    @pytest.fixture
    def limits(self) -> Limits:
        return Limits(outbound_bytes=32_768, send_deadline=DEADLINE)

    @pytest.fixture
    async def engine(self) -> ScriptedEngine:
        return ScriptedEngine(lambda *_: None)

    @pytest.fixture
    async def client(
        self, tmp_path: Path, authority: Authority, engine: ScriptedEngine, limits: Limits
    ) -> AsyncIterator[RawClient]:
        endpoint = Endpoint(engine.port, Anonymous(), limits, wheel_for(limits))
        tls = Tls(files(tmp_path, authority.server()))
        http = await serve_endpoint(endpoint, Address("127.0.0.1", 0), tls)
        context = ssl.create_default_context(cadata=authority.pem.decode())
        client = RawClient(*await asyncio.open_connection("localhost", http.port, ssl=context))
        client.writer.write(handshake())
        await client.head()
        yield client
        client.writer.transport.abort()
        await http.stop()

    @pytest.mark.parametrize("limits", [Limits(outbound_bytes=32_768, send_deadline=0.2)])
    async def test_who_does_not_read_is_cut(
        self, client: RawClient, engine: ScriptedEngine
    ) -> None:
        assert client
        connection = await engine.connected()
        connection.sink.deliver([text("x" * 32 * MIB)])
        assert await connection.ended() is Ending.SLOW_READER

    async def test_who_reads_late_gets_all_of_it_in_order(
        self, client: RawClient, engine: ScriptedEngine
    ) -> None:
        connection = await engine.connected()
        said = ["".join(f"{n},{k};" for k in range(200_000)) for n in range(8)]
        for words in said:
            connection.sink.deliver([text(words)])
        await asyncio.sleep(0)
        assert connection.sink.congested
        frames = [json.loads(bytes((await client.frame()).data)) for _ in said]
        assert [frame["delta"] for frame in frames] == said
        async with asyncio.timeout(DEADLINE):
            await connection.sink.drained()
        assert not connection.sink.congested

    async def test_the_end_comes_after_all_of_it(
        self, client: RawClient, engine: ScriptedEngine
    ) -> None:
        connection = await engine.connected()
        connection.sink.deliver([text("x" * 16 * MIB)])
        connection.sink.end(SessionError(Ending.DRAIN, "Reconnect."))
        assert len((await client.frame()).data) > 16 * MIB
        closing = await client.frame()
        assert int.from_bytes(closing.data[:2], "big") == 1012
        client.send(Opcode.CLOSE, bytes(closing.data[:2]))
        assert await client.rest() == b""


@pytest.mark.parametrize("wrong", ["missing", "another key", "locked", "ca"])
def test_files_that_are_of_no_use_are_said_at_the_start(
    tmp_path: Path, authority: Authority, wrong: str
) -> None:
    tls = files(tmp_path, authority.server(), authority.pem)
    if wrong == "missing":
        tls.key.unlink()
    elif wrong == "another key":
        replace(tls.key, authority.server().key)
    elif wrong == "locked":
        authority.issue(LOCAL, SERVER, dt.timedelta(1), b"password").write(tmp_path, "server")
    else:
        replace(tmp_path / "ca.crt", b"none")
    with pytest.raises(OSError):  # noqa: PT011 - OpenSSL's words
        Tls(tls)


def test_a_call_in_the_clear_shows_nothing() -> None:
    assert shown_in({}) == NOTHING
    assert shown_in({"transport_security_type": [b"insecure"]}) == NOTHING


async def _shakes_hands(context: ssl.SSLContext, port: int) -> bool:
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        _, writer = await asyncio.open_connection("localhost", port, ssl=context)
    except (OSError, EOFError):
        return False
    writer.close()
    return True
