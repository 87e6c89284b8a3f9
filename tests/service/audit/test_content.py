"""A journal says who, when and how much, and nothing of what was said, however a turn ends."""

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from service.audit.places import journal
from service.backends.simulator.backend import Simulator
from service.engine import Policies
from service.errors import Ending
from service.metrics import Metrics
from tests.engines import engine_of
from tests.service.audit.entries import ENTRY
from tests.service.tenants.clients import Client

CANARY = "canary-5f3a9c"


def marked(text: str, **members: object) -> dict[str, Any]:
    """Return a request that says the canary wherever a client can say something of its own."""
    tool = {"type": "function", "name": CANARY, "description": CANARY, "parameters": {"x": CANARY}}
    said = {"type": "input_text", "text": text}
    message = {"type": "message", "role": "user", "id": CANARY, "content": [said]}
    return {
        "input": [message],
        "instructions": CANARY,
        "metadata": {CANARY: CANARY},
        "tools": [tool],
        "user": CANARY,
        "safety_identifier": CANARY,
        "prompt_cache_key": CANARY,
        "unheard_of": CANARY,
        **members,
    }


ACTS = [
    f"say {CANARY}",
    f"#sim refuse {CANARY}",
    f'#sim call {CANARY} {{"x":"{CANARY}"}}',
    "#sim text 5 ; length",
    "#sim fail server_error after 2 words",
]


@pytest.mark.parametrize("stored", [True, False])
async def test_nothing_that_was_said_is_in_it(tmp_path: Path, stored: bool) -> None:
    path = tmp_path / "journal"
    async with journal(str(path), Metrics(CollectorRegistry()), 10) as kept:
        client = Client(engine_of(Simulator(), policies=Policies(journal=kept)))
        for act in ACTS:
            await client.ask(marked(act, store=stored))
        client.connection.close(Ending.GONE)
    content = path.read_text()
    assert CANARY not in content
    entries = [json.loads(line) for line in content.splitlines()]
    assert [entry["outcome"] for entry in entries] == [*["completed"] * 3, "incomplete", "failed"]
    assert {entry["stored"] for entry in entries} == {stored}
    assert all(entry["tenant"] == "acme" and entry["output_tokens"] for entry in entries[:4])


async def test_a_turn_whose_client_left_is_in_it_without_a_word(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    async with journal(str(path), Metrics(CollectorRegistry()), 10) as kept:
        engine = engine_of(Simulator(), policies=Policies(journal=kept))
        client = Client(engine)
        client.begin(marked("#sim text 9 ; stall 60", store=False))
        async with asyncio.timeout(10):
            await client.speaking.wait()
            client.connection.close(Ending.GONE)
            await engine.drain(5)
    (entry,) = map(json.loads, path.read_text().splitlines())
    assert entry["outcome"] == "cancelled"
    assert CANARY not in str(entry)


async def test_no_outage_is_told_in_the_words_of_an_entry(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with journal("/dev/full", Metrics(CollectorRegistry()), 0.05) as kept:
            assert kept
            kept.add(dataclasses.replace(ENTRY, tenant=CANARY, response_id=CANARY))
    assert [line["event"] for line in logs] == ["journal_failing", "journal_not_written"]
    assert CANARY not in str(logs)
