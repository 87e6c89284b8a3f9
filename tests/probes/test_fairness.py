"""A tenant at its limits is refused; the others, on the same service at the same time, never are."""

import asyncio
from collections import Counter
from pathlib import Path

from tests.probes.asking import Event, HttpRequest
from tests.probes.house import house
from tests.probes.wires import http, over_grpc, websocket

_LIMITS = """
[tenants.alice]
turns_per_minute = 30
connections = 40
"""
_TURNS = 40
_NOISE = 200
_CREATE = {"model": "simulator", "input": "#sim text 3"}
_ON_CONNECTIONS = Event({"type": "response.create", **_CREATE})
_OVER_HTTP = HttpRequest("POST", "/responses", _CREATE)
_ROWS = ((http, _OVER_HTTP), (websocket, _ON_CONNECTIONS), (over_grpc, _ON_CONNECTIONS))
_TOO_MUCH = (b"rate_limit_exceeded", b"429")


async def test_only_who_asks_for_too_much_is_refused(tmp_path: Path) -> None:
    limits = tmp_path / "tenants.toml"
    limits.write_text(_LIMITS)
    async with house("memory", tmp_path, {"tenants_file": str(limits)}) as place:
        answers: Counter[tuple[str, str]] = Counter()

        async def ask(who: str, key: str, turns: int, row: int) -> None:
            opening, request = _ROWS[row]
            async with opening(place.address, key) as wire:
                for _ in range(turns):
                    answers[who, _outcome(await wire.ask(request))] += 1

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for row in range(len(_ROWS)):
                group.create_task(ask("alice", place.alice, _NOISE, row))
                group.create_task(ask("bob", place.bob, _TURNS, row))

    assert answers["alice", "refused"] >= 3 * _NOISE - 2 * 30, "it was not noisy"
    assert answers["alice", "completed"] >= 30
    assert answers["bob", "completed"] == 3 * _TURNS
    assert answers.keys() == {("alice", "refused"), ("alice", "completed"), ("bob", "completed")}


def _outcome(answer: bytes) -> str:
    if all(mark in answer for mark in _TOO_MUCH):
        return "refused"
    return "completed" if b"completed" in answer else "failed"
