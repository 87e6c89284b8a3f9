"""Conversations whose store does what it is asked and cannot say so any more."""

from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry

from service.backends.simulator.backend import Simulator
from service.engine import Engine, EngineLimits, Policies
from service.identity import Identity
from service.metrics import Metrics
from service.paging import Page
from service.router import Router
from service.store import Cell, CellName, Stores, StoreUnavailable
from service.store.vault import Vault, VaultLimits
from tests.conformance.clients import InProcess
from tests.conformance.conversation import Conversation
from tests.service.store.conftest import Replica, sqlite
from turnwire.v1 import conversation_service_pb2 as rpc


class Mute:
    """A vault that does not tell, once, that a conversation has changed."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self.falls_silent = False

    def __getattr__(self, name: str) -> object:
        return getattr(self._vault, name)

    async def write(self, name: CellName, cell: Cell, ttl: float) -> bool:
        written = await self._vault.write(name, cell, ttl)
        if self.falls_silent and name.kind == "conversation":
            self.falls_silent = False
            raise StoreUnavailable
        return written


def engine_on(vault: Vault) -> Engine:
    """Return another process's engine."""
    replica = Replica(vault)
    stores = Stores(responses=replica.store, conversations=replica.conversations, cells=vault)
    metrics = Metrics(CollectorRegistry())
    return Engine(Router([Simulator()]), stores, metrics, EngineLimits(), Policies())


def connect(engine: Engine) -> Conversation:
    client = InProcess()
    client.connection = engine.connect(Identity("alice"), "test", client)
    return Conversation(client)


async def test_a_conversation_keeps_all_its_items_when_nobody_hears_that_it_has_moved(
    tmp_path: Path,
) -> None:
    async with sqlite(tmp_path, VaultLimits()) as real:
        vault = cast("Vault", mute := Mute(real))
        engine = engine_on(vault)
        name = (await engine.conversations.create("alice", rpc.CreateConversationRequest())).id
        chat = connect(engine)
        for text in ("one", "two"):
            assert (await chat.ask(text, conversation=name)).kinds[-1] == "completed"
        mute.falls_silent = True
        assert (await chat.ask("three", conversation=name)).kinds[-1] == "failed"
        for asked in (engine, engine_on(vault)):
            items = (await asked.conversations.items("alice", name, Page(limit=100))).items
            assert len(items) == 6
        assert (await connect(asked).sim("history", conversation=name)).text == "7"
