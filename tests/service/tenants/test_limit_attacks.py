"""Tenants that look for a way around their limits."""

import pytest

from service.backends.simulator.backend import Simulator
from service.engine import Engine, Policies
from service.errors import Ending, RateLimited
from service.tenants import Allowance, Tenants
from tests.conformance.gated import Gated
from tests.engines import engine_of
from tests.service.tenants.clients import CALLER, Client
from turnwire.v1 import events_pb2, items_pb2, responses_pb2

ONE = Allowance(turns_per_minute=1)


def engine(model: Simulator, allowance: Allowance) -> Engine:
    tenants = Tenants(lambda _: allowance, clock=lambda: 1000.0)
    return engine_of(model, policies=Policies(tenants=tenants))


def conversation() -> responses_pb2.CreateResponse:
    """Return a conversation that is to be compacted."""
    said = items_pb2.Item(message=items_pb2.Message(role="user", content_text="Hello."))
    return responses_pb2.CreateResponse(
        settings=responses_pb2.Settings(model="simulator"), input=[said]
    )


async def test_steering_is_no_way_to_have_more_turns() -> None:
    model = Gated()
    client = Client(engine(model, ONE))
    client.begin({"input": "#sim text 3 ; stall 0 ; text 3"})
    await client.speaking.wait()
    said = items_pb2.Item(message=items_pb2.Message(role="user", content_text="Go on."))
    steer = events_pb2.SteerResponse(
        previous_response_id=client.told[0].created.response.id, input=[said]
    )
    client.connection.receive(events_pb2.ClientEvent(steer=steer))
    assert client.told[-1].error.error.code == "rate_limit_exceeded"
    client.connection.close(Ending.GONE)


async def test_compacting_counts_as_a_turn() -> None:
    responses = engine(Simulator(), ONE).responses
    await responses.compact(CALLER.tenant, conversation())
    with pytest.raises(RateLimited):
        await responses.compact(CALLER.tenant, conversation())


async def test_what_compacting_computes_is_spent() -> None:
    responses = engine(Simulator(), Allowance(tokens_per_minute=1)).responses
    await responses.compact(CALLER.tenant, conversation())
    with pytest.raises(RateLimited, match="tokens"):
        await responses.compact(CALLER.tenant, conversation())
