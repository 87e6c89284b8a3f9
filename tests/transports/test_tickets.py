"""Who gets a ticket, who gets in with one, and by which name a server without keys may be called."""

import dataclasses
import json
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import structlog
from starlette.applications import Starlette
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin, Subprotocol

from service.identity import Anonymous, Credentials, Identities, Identity
from service.identity.keys import KeyFile, new_key
from service.limits import Limits
from service.tickets import LIFETIME, MOST
from tests.transports.conftest import Served
from tests.transports.scripted import RawClient, ScriptedEngine, handshake
from transports.endpoint import Endpoint
from transports.http import Address, serve_endpoint, wheel_for
from transports.tickets import ticket_routes

ORIGIN = "https://app.example"
ALLOWED = Limits(allowed_origins=(ORIGIN,))


@pytest.fixture
def key(tmp_path: Path) -> str:
    key, line = new_key("acme")
    (tmp_path / "keys").write_text(line)
    return key


@pytest.fixture
def key_file(key: str, tmp_path: Path) -> KeyFile:
    return KeyFile.read(tmp_path / "keys")


@pytest.fixture
def acme(key_file: KeyFile, key: str) -> Identity:
    return key_file.identify(Credentials(f"Bearer {key}"))


def endpoint_with(engine: ScriptedEngine, keys: Identities, limits: Limits) -> Endpoint:
    return Endpoint(engine.port, keys, limits, wheel_for(limits))


class TestTicketsOverHttp:
    @staticmethod
    async def post(endpoint: Endpoint, **headers: str) -> httpx.Response:
        app = Starlette(routes=ticket_routes(endpoint))
        transport = httpx.ASGITransport(app=app)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/responses/tickets", headers=named)

    @pytest.mark.rule("BR-2")
    async def test_a_key_gets_a_ticket_that_is_not_to_be_kept(
        self, key_file: KeyFile, key: str
    ) -> None:
        endpoint = endpoint_with(ScriptedEngine(), key_file, ALLOWED)
        before = time.time()
        answer = await self.post(endpoint, Authorization=f"Bearer {key}")
        assert answer.status_code == 200
        assert answer.headers["Cache-Control"] == "no-store"
        body = answer.json()
        assert set(body) == {"object", "ticket", "expires_at"}
        assert body["object"] == "ticket"
        assert int(before) + LIFETIME <= body["expires_at"] <= time.time() + LIFETIME
        assert endpoint.tickets.redeem(body["ticket"]).tenant == "acme"

    async def test_without_allowed_origins_there_are_none(
        self, key_file: KeyFile, key: str
    ) -> None:
        endpoint = endpoint_with(ScriptedEngine(), key_file, Limits())
        answer = await self.post(endpoint, Authorization=f"Bearer {key}")
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "browsers_not_allowed"
        assert len(endpoint.tickets) == 0

    @pytest.mark.parametrize("limits", [Limits(), ALLOWED])
    async def test_a_wrong_key_is_told_so_first(self, key_file: KeyFile, limits: Limits) -> None:
        engine = ScriptedEngine()
        endpoint = endpoint_with(engine, key_file, limits)
        for headers in ({}, {"Authorization": "Bearer nonsense"}):
            answer = await self.post(endpoint, **headers)
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.json()["error"]["code"] == "invalid_api_key"
        assert engine.refusals == [401, 401]
        assert len(endpoint.tickets) == 0

    async def test_a_page_of_another_origin_cannot_ask_for_one(self) -> None:
        engine = ScriptedEngine()
        endpoint = endpoint_with(engine, Anonymous(), ALLOWED)
        answer = await self.post(endpoint, Origin="https://evil.example")
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "origin_not_allowed"
        assert engine.refusals == [403]
        assert (await self.post(endpoint)).status_code == 200

    async def test_too_many_unused_ones_are_refused(self, key_file: KeyFile, key: str) -> None:
        endpoint = endpoint_with(ScriptedEngine(), key_file, ALLOWED)
        for _ in range(MOST):
            endpoint.tickets.issue(Identity("acme"))
        answer = await self.post(endpoint, Authorization=f"Bearer {key}")
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"


class TestTicketsInHandshakes:
    @pytest.fixture
    async def endpoint(self, key_file: KeyFile) -> Endpoint:
        return endpoint_with(ScriptedEngine(), key_file, ALLOWED)

    @pytest.fixture
    async def port(self, endpoint: Endpoint) -> AsyncIterator[int]:
        http = await serve_endpoint(endpoint, Address("127.0.0.1", 0))
        yield http.port
        await http.stop()

    @staticmethod
    def page(
        port: int, *offers: str, origin: str | None = ORIGIN, key: str | None = None
    ) -> connect:
        return connect(
            f"ws://127.0.0.1:{port}/v1/responses",
            origin=Origin(origin) if origin else None,
            subprotocols=[Subprotocol(offer) for offer in offers] or None,
            additional_headers={"Authorization": f"Bearer {key}"} if key else None,
            compression=None,
            proxy=None,
        )

    async def refused(self, connecting: connect) -> tuple[int, bytes]:
        with pytest.raises(InvalidStatus) as refusal:
            async with connecting:
                pass
        response = refusal.value.response
        assert "Sec-WebSocket-Protocol" not in response.headers
        return response.status_code, bytes(response.body)

    @pytest.mark.rule("BR-3")
    async def test_a_ticket_says_whose_connection_it_is_and_is_not_said_back(
        self, endpoint: Endpoint, port: int, acme: Identity
    ) -> None:
        ticket = endpoint.tickets.issue(acme)
        async with self.page(port, "turnwire", f"turnwire.ticket.{ticket}") as client:
            assert client.response is not None
            assert client.response.headers.get_all("Sec-WebSocket-Protocol") == ["turnwire"]
            assert ticket not in str(client.response.headers)
            engine = endpoint.engine
            assert isinstance(engine, ScriptedEngine)
            assert (await engine.connected()).tenant == "acme"

    @pytest.mark.rule("BR-4")
    async def test_a_ticket_that_is_not_good_is_answered_like_a_key_that_is_not(
        self, endpoint: Endpoint, port: int, key: str, acme: Identity
    ) -> None:
        used = endpoint.tickets.issue(acme)
        endpoint.tickets.redeem(used)
        good, spare = (f"turnwire.ticket.{endpoint.tickets.issue(acme)}" for _ in range(2))
        answers = [
            await self.refused(self.page(port, "turnwire", f"turnwire.ticket.{used}")),
            await self.refused(self.page(port, "turnwire", "turnwire.ticket.")),
            await self.refused(self.page(port, "turnwire", "turnwire.ticket.no-such")),
            await self.refused(self.page(port, "turnwire", good, origin=None)),
            await self.refused(self.page(port, "turnwire", good, key=key)),
            await self.refused(self.page(port, "turnwire", good, spare)),
            await self.refused(self.page(port, good)),
            await self.refused(self.page(port, key="nonsense")),
        ]
        assert len(set(answers)) == 1
        assert answers[0][0] == 401
        async with self.page(port, "turnwire", good):
            pass  # none of these attempts has used it up

    @pytest.mark.rule("BR-1")
    async def test_a_good_ticket_does_not_make_an_origin_allowed(
        self, endpoint: Endpoint, port: int, acme: Identity
    ) -> None:
        ticket = f"turnwire.ticket.{endpoint.tickets.issue(acme)}"
        for origin in ("https://evil.example", "null"):
            status, body = await self.refused(self.page(port, "turnwire", ticket, origin=origin))
            assert status == 403
            assert json.loads(body)["error"]["code"] == "origin_not_allowed"

    async def test_a_ticket_is_worth_nothing_once_the_key_that_made_it_is_gone(
        self, endpoint: Endpoint, port: int
    ) -> None:
        ticket = endpoint.tickets.issue(Identity("acme", "key:gone:00000000"))
        status, _ = await self.refused(self.page(port, "turnwire", f"turnwire.ticket.{ticket}"))
        assert status == 401

    async def test_a_page_that_can_send_a_key_may(self, port: int, key: str) -> None:
        async with self.page(port, "turnwire", key=key) as client:
            assert client.subprotocol == "turnwire"
        async with self.page(port, key=key) as client:
            assert client.subprotocol is None

    async def test_no_log_says_a_ticket(
        self,
        endpoint: Endpoint,
        port: int,
        acme: Identity,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        ticket = endpoint.tickets.issue(acme)
        offers = ("turnwire", f"turnwire.ticket.{ticket}")
        with caplog.at_level(logging.DEBUG), structlog.testing.capture_logs() as logged:
            async with self.page(port, *offers):
                pass
            await self.refused(self.page(port, *offers))
        ours = [record for record in caplog.records if record.name != "websockets.client"]
        assert ticket not in str([record.getMessage() for record in ours])
        assert ticket not in str(logged)

    async def test_offers_that_are_none_are_no_handshake(self, port: int) -> None:
        client = await RawClient.connect(port)
        client.writer.write(handshake(headers=["Sec-WebSocket-Protocol: turnwire;, =", "X: y"]))
        assert (await client.head()).startswith("HTTP/1.1 400 ")
        await client.close()


class TestHost:
    """Without keys: a page whose name was made to lead here must not get anywhere."""

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:80", "127.0.0.1:8400", "127.1.2.3", "[::1]:8400", "[::1]"]
    )
    async def test_loopback_may_be_called_by_its_names(self, served: Served, host: str) -> None:
        assert await self.status(served, host) == "101"

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "evil.example:8400",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "10.0.0.1",
            "0.0.0.0",
            "",
            "[",
            "localhost@evil.example",
            "evil.example#localhost",
        ],
    )
    async def test_no_other_name_will_do(self, served: Served, host: str) -> None:
        assert await self.status(served, host) == "403"
        assert served.engine.connections.empty()
        assert served.engine.rejections == ["origin"]

    async def test_plain_http_is_no_way_around(self) -> None:
        engine = ScriptedEngine()
        endpoint = endpoint_with(engine, Anonymous(), Limits())
        http = await serve_endpoint(endpoint, Address("127.0.0.1", 0))
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(
                f"http://127.0.0.1:{http.port}/v1/models", headers={"Host": "evil.example"}
            )
        await http.stop()
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "host_not_allowed"
        assert engine.refusals == [403]

    async def test_two_names_are_one_too_many(self, served: Served) -> None:
        assert await self.status(served, "localhost\r\nHost: localhost") == "403"

    async def test_the_operator_may_name_others(self) -> None:
        engine = ScriptedEngine()
        endpoint = endpoint_with(engine, Anonymous(), Limits())
        endpoint = dataclasses.replace(
            endpoint, limits=dataclasses.replace(endpoint.limits, allowed_hosts=("Model.internal",))
        )
        http = await serve_endpoint(endpoint, Address("127.0.0.1", 0))
        served = Served(engine, http, endpoint.wheel)
        assert await self.status(served, "model.internal:8400") == "101"
        assert await self.status(served, "other.internal:8400") == "403"
        await http.stop()

    async def test_with_keys_any_name_will_do(self, key_file: KeyFile, key: str) -> None:
        engine = ScriptedEngine()
        endpoint = endpoint_with(engine, key_file, Limits())
        http = await serve_endpoint(endpoint, Address("127.0.0.1", 0))
        served = Served(engine, http, endpoint.wheel)
        authorization = f"models.example\r\nAuthorization: Bearer {key}"
        assert await self.status(served, authorization) == "101"
        await http.stop()

    @staticmethod
    async def status(served: Served, host: str) -> str:
        client = await RawClient.connect(served.port)
        client.writer.write(handshake().replace(b"Host: localhost", f"Host: {host}".encode()))
        head = await client.head()
        await client.close()
        return head.split(" ")[1]
