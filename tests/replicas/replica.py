"""One replica: a real process of the service on ports of its own, which stay when it is restarted."""

import base64
import itertools
import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.replicas.process import Process

_ROOT = Path(__file__).parents[2]
_PREFIX = "TURNWIRE_"
_WAIT = 5.0
PORTS = 4
"""That a replica listens on."""
_QUIET = {
    "log_level": "warning",
    "simulator_first_token_seconds": "0",
    "simulator_tokens_per_second": "0",
}


class Address(NamedTuple):
    """Where clients reach the service, a replica or what stands before several."""

    http: int
    grpc: int

    @property
    def websocket_url(self) -> str:
        """The address of connections."""
        return f"ws://127.0.0.1:{self.http}/v1/responses"

    @property
    def http_url(self) -> str:
        """The address of the API."""
        return f"http://127.0.0.1:{self.http}/v1"

    @property
    def grpc_target(self) -> str:
        """The address of gRPC."""
        return f"127.0.0.1:{self.grpc}"


class Replica:
    """One process of the service, with the simulator behind it unless settings say otherwise."""

    def __init__(
        self, name: str, folder: Path, ports: Iterator[int], settings: Mapping[str, str]
    ) -> None:
        """`settings` are called as in `service.config`; `PORTS` of the ports are taken."""
        self.name = name
        http, grpc, health, self.operations = itertools.islice(ports, PORTS)
        self.address = Address(http, grpc)
        listening = {
            "http_address": f"127.0.0.1:{http}",
            "grpc_address": f"127.0.0.1:{grpc}",
            "health_address": f"127.0.0.1:{health}",
            "operations_address": f"127.0.0.1:{self.operations}",
        }
        self.settings = {"backend": "simulator", **_QUIET, **settings, **listening}
        command = [sys.executable, "-m", "service", "serve"]
        self.process = Process(command, folder / f"{name}.log", self._environment())

    async def start(self) -> None:
        """Start it, and wait until it takes connections."""
        self.process.start()
        await self.process.until(self.ready)

    async def ready(self) -> bool:
        """Tell whether it takes connections."""
        try:
            async with _asking() as client:
                answer = await client.get(f"{self._operations_url}/readyz")
        except httpx.TransportError:
            return False
        return answer.status_code == 200

    async def sample(self, name: str, **labels: str) -> float:
        """Return a metric, summed over the labels that are not given."""
        async with _asking() as client:
            answer = await client.get(f"{self._operations_url}/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    @property
    def _operations_url(self) -> str:
        return f"http://127.0.0.1:{self.operations}"

    def _environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIX)}
        settings = {f"{_PREFIX}{name.upper()}": value for name, value in self.settings.items()}
        return {**own, **settings, "PYTHONPATH": f"{_ROOT}:{_ROOT / 'proto'}"}


def sealing_keys(folder: Path) -> Path:
    """Write the keys that replicas of one service share."""
    path = folder / "sealing-keys"
    path.write_text(base64.b64encode(secrets.token_bytes(32)).decode() + "\n")
    return path


def _asking() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=_WAIT, trust_env=False)
