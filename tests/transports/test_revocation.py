"""A credential that is taken back while it is in use, over each transport: from the file to the client."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client import CollectorRegistry
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from service.identity import Identities
from service.identity.authenticator import Authenticator, Method
from service.identity.issuer import Issuer
from service.identity.keys import KeyFile, new_key
from service.identity.tokens import Claims, Tokens
from service.metrics import Metrics
from tests.service.identity.authority import replace
from tests.service.identity.token_house import AUDIENCE, TokenHouse
from tests.transports.secured import DEADLINE, Secured, models_over, secured
from turnwire.v1 import session_service_pb2_grpc as stubs

STALL = "#sim text 1 ; stall 60"


@dataclass
class Service:
    """A service in the clear whose keys, tokens and suspended tenants a test changes."""

    at: Secured
    keys: Path
    key: str
    house: TokenHouse
    suspended: set[str]

    def take_back(self) -> None:
        replace(self.keys, b"# nobody\n")


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    key, line = new_key("acme")
    (tmp_path / "keys").write_text(line)
    suspended: set[str] = set()
    async with TokenHouse.opened() as house:
        issuer = Issuer(house.url, ["ES256"], house.jwks_url)
        await issuer.start()
        ways: dict[Method, Identities] = {
            Method.KEY: KeyFile.read(tmp_path / "keys"),
            Method.TOKEN: Tokens(issuer, Claims(audience=AUDIENCE)),
        }
        metrics = Metrics(CollectorRegistry())
        authenticator = Authenticator(ways, suspended.__contains__, metrics)
        async with secured(tmp_path, authenticator, None) as at:
            yield Service(at, tmp_path / "keys", key, house, suspended)
        await issuer.stop()


def create(text: str) -> str:
    return json.dumps({"type": "response.create", "model": "simulator", "input": text})


async def begun(client: ClientConnection) -> None:
    """Have a turn begin that does not end by itself."""
    await client.send(create(STALL))
    async for frame in client:
        if json.loads(frame)["type"] == "response.output_text.delta":
            return


async def to_the_end(client: ClientConnection) -> tuple[list[dict[str, Any]], int, str]:
    """Return what is still said, and with which code and reason the connection is closed."""
    said = []
    async with asyncio.timeout(DEADLINE):
        with contextlib.suppress(ConnectionClosed):
            while True:
                said.append(json.loads(await client.recv()))
    return said, client.close_code or 0, client.close_reason or ""


async def test_a_websocket_is_closed_when_its_key_is_taken_out(service: Service) -> None:
    async with service.at.websocket(None, service.key) as client:
        service.take_back()
        said, code, reason = await to_the_end(client)
    assert (code, reason) == (1008, "credential_revoked")
    assert [event["error"]["code"] for event in said] == ["invalid_api_key"]
    with pytest.raises(InvalidStatus) as refused:
        async with service.at.websocket(None, service.key):
            pass
    assert refused.value.response.status_code == 401


async def test_a_turn_that_runs_is_told_why_it_fails(service: Service) -> None:
    async with service.at.websocket(None, service.key) as client:
        await begun(client)
        service.take_back()
        said, code, _ = await to_the_end(client)
    assert code == 1008
    failed, error = said[-2:]
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"]["code"] == "invalid_api_key"
    assert (error["status"], error["error"]["code"]) == (401, "invalid_api_key")


async def test_a_grpc_stream_ends_when_its_key_is_taken_out(service: Service) -> None:
    async with service.at.channel(None) as channel:
        metadata = [("authorization", f"Bearer {service.key}")]
        stream = stubs.SessionServiceStub(channel).Connect(metadata=metadata, timeout=DEADLINE)
        await stream.initial_metadata()
        service.take_back()
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await stream.read():
                pass  # what is unread would keep the status back
        assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED
        trailers = dict(await stream.trailing_metadata() or ())
        assert trailers["turnwire-ending"] == "credential_revoked"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await models_over(channel, service.key)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_an_answer_over_http_ends_when_its_key_is_taken_out(service: Service) -> None:
    body = {"model": "simulator", "input": STALL, "stream": True}
    headers = {"Authorization": f"Bearer {service.key}"}
    url = f"http://127.0.0.1:{service.at.http_port}/v1/responses"
    async with httpx.AsyncClient(trust_env=False, timeout=DEADLINE) as client:
        async with client.stream("POST", url, json=body, headers=headers) as answer:
            kinds = []
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    kinds.append(line.removeprefix("event: "))
                if kinds[-1:] == ["response.output_text.delta"]:
                    service.take_back()
        assert kinds[-1] in ("response.failed", "error")
        assert (await client.get(url + "/resp_1", headers=headers)).status_code == 401


async def test_others_go_on(service: Service) -> None:
    token = service.house.token(sub="globex")
    async with (
        service.at.websocket(None, service.key) as ending,
        service.at.websocket(None, token) as staying,
    ):
        service.take_back()
        await to_the_end(ending)
        await staying.send(create("hi"))
        async with asyncio.timeout(DEADLINE):
            assert json.loads(await staying.recv())["type"] == "response.created"


async def test_a_suspended_tenant_is_cut_whatever_its_credential(service: Service) -> None:
    token = service.house.token(sub="acme")
    async with (
        service.at.websocket(None, service.key) as one,
        service.at.websocket(None, token) as other,
    ):
        service.suspended.add("acme")
        for client in (one, other):
            _, code, reason = await to_the_end(client)
            assert (code, reason) == (1008, "credential_revoked")


async def test_a_token_that_expires_ends_its_connection_after_the_turn(service: Service) -> None:
    token = service.house.token(exp=int(time.time()) + 3)
    async with service.at.websocket(None, token) as client:
        await client.send(create("#sim text 1 ; stall 4 ; text 1"))
        said, code, reason = await to_the_end(client)
    assert (code, reason) == (1008, "credential_revoked")
    assert "response.completed" in [event["type"] for event in said]
    with pytest.raises(InvalidStatus):
        async with service.at.websocket(None, token):
            pass
