"""The whole service as a process: how it starts, what it says, how it goes."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

ROOT = Path(__file__).parents[2]
CANARY = "canary-5f3a9c"
PORTS = ("HTTP", "GRPC", "HEALTH", "OPERATIONS")
FREE = {f"TURNWIRE_{port}_ADDRESS": "127.0.0.1:0" for port in PORTS}


@dataclass
class Process:
    process: asyncio.subprocess.Process
    said: list[str]
    websocket: str = ""
    operations: str = ""

    async def read(self) -> None:
        """Read what the process says until it serves, or ends."""
        assert self.process.stderr
        while line := (await self.process.stderr.readline()).decode():
            self.said.append(line)
            if found := re.search(r"WebSocket +(\S+)", line):
                self.websocket = found[1]
            if found := re.search(r"metrics +(\S+)/metrics", line):
                self.operations = found[1]
            if "models" in line and self.operations:
                return

    async def end(self) -> int:
        """Read what is left, and return the exit code."""
        assert self.process.stderr
        rest = await self.process.stderr.read()
        self.said.append(rest.decode())
        return await self.process.wait()

    async def get(self, path: str) -> str:
        def fetch() -> str:
            with urllib.request.urlopen(f"{self.operations}{path}", timeout=5) as answer:
                return str(answer.read().decode())

        return await asyncio.to_thread(fetch)


@asynccontextmanager
async def started(*arguments: str, **variables: str) -> AsyncIterator[Process]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("TURNWIRE_")}
    environment |= {"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}", **FREE, **variables}
    process = Process(
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "service", "serve", *arguments),
            cwd=ROOT,
            env=environment,
            stderr=asyncio.subprocess.PIPE,
        ),
        [],
    )
    try:
        async with asyncio.timeout(30):
            await process.read()
            yield process
    finally:
        if process.process.returncode is None:
            process.process.kill()
            await process.process.wait()


async def ask(url: str, text: str) -> list[dict[str, object]]:
    async with connect(url, proxy=None) as socket:
        await socket.send(
            json.dumps({"type": "response.create", "model": "simulator", "input": text})
        )
        events: list[dict[str, object]] = []
        while not events or events[-1]["type"] not in {"response.completed", "error"}:
            events.append(json.loads(await socket.recv()))
        return events


async def test_it_serves_counts_and_goes_on_sigterm() -> None:
    async with started("--backend", "simulator") as service:
        assert (await ask(service.websocket, CANARY))[-1]["type"] == "response.completed"
        assert await service.get("/healthz")
        assert await service.get("/readyz")
        metrics = await service.get("/metrics")
        assert 'turnwire_turns_total{outcome="ok",transport="websocket"} 1.0' in metrics
        service.process.send_signal(signal.SIGTERM)
        assert await service.end() == 0
    assert CANARY not in metrics
    assert CANARY not in "".join(service.said)


async def test_a_running_turn_is_finished_before_it_goes() -> None:
    slow = {"TURNWIRE_SIMULATOR_TOKENS_PER_SECOND": "50"}
    async with started("--backend", "simulator", **slow) as service:
        async with connect(service.websocket, proxy=None) as socket:
            await socket.send(
                '{"type":"response.create","model":"simulator","input":"#sim text 20"}'
            )
            while json.loads(await socket.recv())["type"] != "response.output_text.delta":
                pass
            service.process.send_signal(signal.SIGTERM)
            kinds = [json.loads(frame)["type"] async for frame in remaining(socket)]
        assert kinds[-2:] == ["response.completed", "error"]
        assert socket.close_code == 1012
        assert await service.end() == 0


async def remaining(socket: object) -> AsyncIterator[str]:
    while True:
        try:
            yield await socket.recv()  # type: ignore[attr-defined]
        except ConnectionClosed:
            return


async def test_bad_settings_stop_it_with_a_list() -> None:
    variables = {"TURNWIRE_SLOTS": "0", "TURNWIRE_STORE_BYTES": "few"}
    async with started("--backend", "simulator", **variables) as service:
        assert await service.end() == 1
    said = "".join(service.said)
    assert "TURNWIRE_SLOTS" in said
    assert "TURNWIRE_STORE_BYTES" in said
    assert "Traceback" not in said


async def test_offline_without_weights_it_names_the_simulator(tmp_path: Path) -> None:
    offline = {
        "TURNWIRE_CACHE_DIR": str(tmp_path),
        "PIP_INDEX_URL": "http://127.0.0.1:9/",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_RETRIES": "0",
    }
    async with started(**offline) as service:
        assert await service.end() == 1
    assert "--backend simulator" in " ".join("".join(service.said).split())


@pytest.mark.parametrize("port", PORTS)
async def test_an_address_that_is_taken_is_named(port: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        variables = {f"TURNWIRE_{port}_ADDRESS": address}
        async with started("--backend", "simulator", **variables) as service:
            assert await service.end() == 1
    said = "".join(service.said)
    assert address in said
    assert "Traceback" not in said


async def test_a_bad_key_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("secret stuff\n")
    async with started("--backend", "simulator", TURNWIRE_API_KEYS_FILE=str(path)) as service:
        assert await service.end() == 1
    said = "".join(service.said)
    assert "line 1" in said.replace("\n", " ")
    assert "Traceback" not in said
    assert "stuff" not in said


async def test_a_model_server_that_is_not_there_is_said_plainly() -> None:
    async with started(
        "--backend", "llama.cpp", TURNWIRE_BACKEND_URL="http://127.0.0.1:9"
    ) as service:
        assert await service.end() == 1
    assert "Traceback" not in "".join(service.said)


async def test_a_models_file_says_who_serves(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text(
        '[servers.one]\nkind = "simulator"\nmodels = ["fast"]\n'
        '[servers.two]\nkind = "simulator"\nmodels = ["fast"]\n'
        '[servers.gone]\nkind = "llama.cpp"\nurl = "http://127.0.0.1:9"\nmodels = ["slow"]\n'
        '[aliases]\nsimulator = "fast"\n'
    )
    async with started("--models", str(path)) as service:
        assert (await ask(service.websocket, CANARY))[-1]["type"] == "response.completed"
        metrics = await service.get("/metrics")
    assert 'turnwire_server_up{server="one"} 1.0' in metrics
    assert 'turnwire_server_up{server="gone"} 0.0' in metrics
    said = "".join(service.said)
    assert "server_down" in said
    assert "fast, slow, simulator" in said


async def test_a_bad_models_file_is_told_by_place(tmp_path: Path) -> None:
    path = tmp_path / "models.toml"
    path.write_text('[servers.one]\nurl = "http://127.0.0.1:9"\nwieght = 1\n')
    async with started("--models", str(path)) as service:
        assert await service.end() == 1
    said = "".join("".join(service.said).split())
    assert "servers.one.wieghtisunknown" in said
    assert "Traceback" not in said


async def test_a_models_file_that_is_not_there_is_named() -> None:
    async with started("--models", "nowhere.toml") as service:
        assert await service.end() == 1
    assert "nowhere.toml" in "".join(service.said)
    assert "Traceback" not in "".join(service.said)


@pytest.mark.parametrize("name", ["serve", "demo", "settings", "models", "keys"])
async def test_every_command_explains_itself(name: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "service", name, "--help"),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert b"Usage" in said
