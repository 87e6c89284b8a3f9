"""Limits as clients of an engine meet them."""

import pytest

from service.backends.simulator.backend import Simulator
from service.engine import Engine, Policies
from service.errors import Ending, RateLimited
from service.tenants import Allowance, Tenants
from tests.engines import engine_of
from tests.service.tenants.clients import Client
from turnwire.v1 import events_pb2


def engine(allowance: Allowance) -> Engine:
    tenants = Tenants(lambda _: allowance, clock=lambda: 1000.0)
    return engine_of(Simulator(), policies=Policies(tenants=tenants))


def code(event: events_pb2.ServerEvent) -> str:
    return event.error.error.code


async def test_a_turn_too_many_is_refused_and_the_connection_lives_on() -> None:
    client = Client(engine(Allowance(turns_per_minute=2)))
    assert (await client.ask({"input": "one"})).HasField("completed")
    assert (await client.ask({"input": "two"})).HasField("completed")
    refused = await client.ask({"input": "three"})
    assert (code(refused), refused.error.status) == ("rate_limit_exceeded", 429)
    assert refused.error.headers["retry-after"] == "30"
    assert code(await client.ask({"input": "four"})) == "rate_limit_exceeded"
    client.connection.close(Ending.GONE)


async def test_bytes_count_as_they_are_sent() -> None:
    client = Client(engine(Allowance(bytes_per_minute=1000)))
    assert (await client.ask({"input": "x" * 2000})).HasField("completed")
    assert "bytes" in (await client.ask({"input": "x"})).error.error.message
    client.connection.close(Ending.GONE)


async def test_tokens_of_a_turn_are_what_the_next_one_waits_for() -> None:
    client = Client(engine(Allowance(tokens_per_minute=20)))
    assert (await client.ask({"input": "#sim text 200"})).HasField("completed")
    assert "tokens" in (await client.ask({"input": "x"})).error.error.message
    client.connection.close(Ending.GONE)


async def test_a_connection_too_many_is_refused_until_another_ends() -> None:
    host = engine(Allowance(connections=1))
    first = Client(host)
    with pytest.raises(RateLimited):
        Client(host)
    first.connection.close(Ending.GONE)
    Client(host).connection.close(Ending.GONE)
