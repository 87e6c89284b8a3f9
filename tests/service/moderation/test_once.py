"""That history is never screened again: not as a conversation grows, and not by another replica."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from service.backends.simulator.backend import Simulator
from service.engine import Engine, EngineLimits, Policies
from service.identity import Identity
from service.metrics import Metrics
from service.moderation import Classifier
from service.router import Router
from service.store import Stores
from tests.conformance.clients import InProcess
from tests.conformance.conversation import Conversation
from tests.engines import stores
from tests.service.moderation.words import Words

TURNS = 20


@asynccontextmanager
async def replica(shared: Stores, classifier: Classifier) -> AsyncIterator[Conversation]:
    """Run an engine of its own, with verdicts of its own, on shared stores; yield a connection to it."""
    backend = Simulator()
    await backend.start()
    policies = Policies(classifiers=[classifier])
    metrics = Metrics(CollectorRegistry())
    engine = Engine(Router([backend]), shared, metrics, EngineLimits(), policies)
    client = InProcess()
    client.connection = engine.connect(Identity("t"), "in-process", client)
    try:
        yield Conversation(client)
    finally:
        await client.vanish()
        await engine.drain(0)
        await backend.stop()


async def converse(chat: Conversation, words: Sequence[str], after: str | None) -> str:
    """Say one thing a turn, and be repeated by the model; return the last response's id."""
    moderation = {"model": "bomb", "policy": {"input": {"mode": "block"}}}
    for word in words:
        continued = {} if after is None else {"previous_response_id": after}
        heard = await chat.ask(word, moderation=moderation, **continued)
        assert heard.text == word
        after = heard.id
    assert after is not None
    return after


def said(first: int) -> list[str]:
    return [f"turn {number}" for number in range(first, first + TURNS)]


@pytest.mark.rule("MO-2")
async def test_a_conversation_costs_as_many_classifications_as_it_has_things_said() -> None:
    classifier = Words("bomb")
    async with replica(stores(), classifier) as chat:
        await converse(chat, said(0), None)
    assert classifier.asked == said(0)  # what the model repeats has its verdict already


@pytest.mark.rule("MO-2")
async def test_a_replica_that_goes_on_with_a_conversation_classifies_only_what_is_new() -> None:
    one, other = Words("bomb"), Words("bomb")
    shared = stores()
    async with replica(shared, one) as chat:
        last = await converse(chat, said(0), None)
    async with replica(shared, other) as chat:
        await converse(chat, said(TURNS), last)
    assert one.asked == said(0)
    assert other.asked == said(TURNS)
