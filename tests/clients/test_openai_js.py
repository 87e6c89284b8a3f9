"""The JavaScript SDK on Node. The scripts in `js` talk and tell what they got; it is judged here."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from service.backends.simulator.backend import Simulator
from tests.conformance.server import Server, serving

SCRIPTS = Path(__file__).with_name("js")
INSTALL = ("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error")
OLDEST_NODE = 20  # the SDK asks for 22; with 20 it works too
DEADLINE = 120  # seconds for npm, and for a script
UNKNOWN = {"kind": "BadRequestError", "status": 400, "code": "previous_response_not_found"}
Findings = dict[str, Any]
Script = Callable[[Server, str], Awaitable[Findings]]


async def output_of(*command: str, folder: Path, **environment: str) -> bytes:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE):
            told, complaint = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, complaint.decode()
    return told


async def major_version_of_node() -> int:
    if shutil.which("node") is None:
        return 0
    version = await output_of("node", "--version", folder=SCRIPTS)
    return int(version.decode().lstrip("v").split(".")[0])


async def install(folder: Path) -> None:
    """Install the SDK, unless an earlier run has installed this very one."""
    wanted = (SCRIPTS / "package.json").read_text()
    installed = folder / "installed.json"
    if not installed.exists() or installed.read_text() != wanted:
        (folder / "package.json").write_text(wanted)
        await output_of(*INSTALL, folder=folder)
        installed.write_text(wanted)


@pytest.fixture
async def run(pytestconfig: pytest.Config) -> Script:
    """Run a script with a tenant's key, and return what it tells."""
    if await major_version_of_node() < OLDEST_NODE or shutil.which("npm") is None:
        pytest.skip(f"no Node {OLDEST_NODE} here: install the packages 'nodejs' and 'npm'")
    cache = pytestconfig.cache
    assert cache
    folder = cache.mkdir("openai-js")
    await install(folder)
    for path in SCRIPTS.glob("*.mjs"):
        shutil.copy(path, folder)

    async def run_it(server: Server, name: str) -> Findings:
        base = server.websocket_url.replace("ws://", "http://").removesuffix("/responses")
        told = await output_of(
            "node", name, folder=folder, OPENAI_API_KEY=server.alice, OPENAI_BASE_URL=base
        )
        findings = json.loads(told)
        assert isinstance(findings, dict)
        return findings

    return run_it


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(Simulator(), tmp_path) as started:
        yield started


async def test_a_conversation_over_its_websocket(server: Server, run: Script) -> None:
    told = await run(server, "websocket.mjs")
    plain = told["plain"]
    assert plain["types"][:2] == ["response.created", "response.in_progress"]
    assert plain["types"][-1] == "response.completed"
    assert plain["numbers"] == list(range(len(plain["numbers"])))
    assert plain["deltas"] == plain["text"] == "every turn carries only what"
    assert told["calls"] == [
        ["function_call", "look", '{"step":1}'],
        ["function_call", "look", '{"step":2}'],
    ]
    assert told["answer"] == "a door"
    assert told["cached"] > 0
    assert told["refused"]["type"] == "error"
    assert told["refused"]["status"] == 400
    assert told["refused"]["error"]["code"] == "previous_response_not_found"
    assert told["after"] == "response.completed"  # on the same socket
    assert told["forgotten"] == "previous_response_not_found"  # store: false, on another socket
    assert told["kept"] == "every turn"
    assert "401" in told["rejected"]


async def test_sixteen_of_its_lanes_run_side_by_side_and_fork(server: Server, run: Script) -> None:
    told = await run(server, "lanes.mjs")
    assert told["words"] == list(range(1, 17))
    assert set(told["statuses"]) == {"completed"}
    assert len(set(told["ids"])) == 31
    assert told["parents"] == [True] * 15


async def test_it_steers_a_response(server: Server, run: Script) -> None:
    told = await run(server, "steering.mjs")
    assert told["accepted"]
    assert told["last"] == "response.incomplete"
    assert told["reason"] == "steered"
    assert told["text"] == "every turn"
    assert told["successor"]["parent"]
    assert told["successor"]["types"][0] == "response.created"
    assert told["successor"]["types"][-1] == "response.completed"
    assert told["successor"]["text"] == "every turn carries"
    assert told["late"] == {"type": "response.steer.failed", "code": "response_already_completed"}


async def test_everything_over_http(server: Server, run: Script) -> None:
    told = await run(server, "http.mjs")
    assert told["whole"]["object"] == "response"
    assert told["whole"]["status"] == "completed"
    assert told["whole"]["text"] == "every turn carries only what"
    streamed = told["streamed"]
    assert streamed["types"][-1] == "response.completed"
    assert streamed["numbers"] == list(range(len(streamed["numbers"])))
    assert streamed["calls"] == [["function_call", "look", '{"step":1}']]
    assert told["answer"] == "a door"
    assert told["retrieved"]
    assert told["replayed"] == streamed["numbers"][2:]
    assert told["inputs"][-1] == "function_call_output"
    assert told["unknown"] == UNKNOWN
    assert told["gone"]["status"] == 404
    assert told["background"]["status"] in {"queued", "in_progress"}
    assert told["background"]["last"] == "response.completed"
    assert told["background"]["text"] == "every turn carries"
    assert told["compacted"] == {"object": "response.compaction", "last": "compaction"}
    assert told["compactedOn"] == "every turn"
    assert told["models"] == ["simulator"]


async def test_conversations_over_http(server: Server, run: Script) -> None:
    talk = await run(server, "conversations.mjs")
    assert talk["object"] == "conversation"
    assert talk["said"] == "every turn carries only"
    assert talk["types"] == [["message", "user"], ["message", "user"], ["message", "assistant"]]
    assert talk["same"]
    assert talk["topic"] == "windows"
    assert talk["deleted"]
