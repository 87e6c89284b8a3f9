"""The composition root: the one module that knows every part, and in which order they start and stop."""

import asyncio
import functools
import gc
import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    PROCESS_COLLECTOR,
    CollectorRegistry,
    disable_created_metrics,
)

import transports.grpc
import transports.http
from service import logs, models
from service.backends.llama_cpp.embedded import Embedded, EmbeddedModel
from service.backends.simulator.backend import Simulator, Speed
from service.config import Config
from service.engine import Engine
from service.identity import Identities
from service.metrics import Metrics
from service.parts import policies_of, store_of
from service.rendering.proof import Proof
from service.router import Router
from service.servers import Roster, Server, alone, in_process
from service.servers.adapters import Adapters
from service.servers.detection import name_of, usual_url
from service.servers.file import read
from service.servers.fleet import Fleet
from service.store.opened import Opener
from transports.health import serve_health
from transports.http import Address
from transports.operations import serve_operations
from transports.tls import Tls, TlsFiles
from turnwire import json_codec
from turnwire.v1 import events_pb2, items_pb2

log = structlog.get_logger(__name__)

_STOP_SECONDS = 5.0
"""For servers to close what is still open once all turns have ended."""


@dataclass(frozen=True, slots=True)
class Service:
    """A running service, and where it can be reached."""

    engine: Engine
    websocket_url: str
    http_url: str
    grpc_target: str
    operations_url: str
    models: tuple[str, ...]


@asynccontextmanager
async def running(config: Config, roster: Roster) -> AsyncIterator[Service]:
    """Run the service for as long as the context lasts, then let its clients go gracefully."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # twice the series, for little
    registry = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    metrics = Metrics(registry)
    _compile_codec()
    async with AsyncExitStack() as stack:
        router = Router(aliases=roster.aliases)
        proof = Proof(config.identity_check_every, lambda o: metrics.token_identity.labels(o).inc())
        fleet = Fleet(roster, router, Adapters(proof).of, metrics)
        stack.push_async_callback(fleet.stop)
        await fleet.start()
        policies = await stack.enter_async_context(policies_of(config, metrics))
        limits = config.engine_limits()
        opener = Opener(store_of(config), policies.memory, metrics, policies.quota_of)
        stores = await stack.enter_async_context(opener.opened())
        engine = Engine(router, stores, metrics, limits, policies)
        service = await _listen(config, engine, policies.identities, stack)
        stack.push_async_callback(engine.drain, config.drain_seconds)
        yield service


async def serve(config: Config, roster: Roster, ready: Callable[[Service], None]) -> None:
    """Run the service until SIGTERM or SIGINT; call `ready` once it listens."""
    logs.catch_all()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a dump would hold all that was said
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_defect)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with running(config, roster) as service:
        _settle_memory()
        log.info("serving", models=service.models, websocket=service.websocket_url)
        ready(service)
        await stopped.wait()
        log.info("stopping", drain_seconds=config.drain_seconds)
    log.info("stopped")


def roster_of(config: Config) -> Roster:
    """Return the model servers of a configuration that are not embedded, nor to be detected.

    Raises `BadModelsFile`.
    """
    if config.models_file:
        return read(config.models_file)
    if config.backend == "simulator":
        speed = Speed(
            first_token=config.simulator_first_token_seconds,
            prefill=config.simulator_prefill_seconds_per_token,
            tokens_per_second=config.simulator_tokens_per_second,
        )
        return alone(Simulator(speed=speed))
    url = config.backend_url or usual_url(config.backend)
    server = Server(
        name=name_of(url),
        kind=config.backend,
        url=url,
        api_key=config.backend_api_key,
        tokenizer=config.backend_tokenizer,
    )
    return Roster(servers=[server], strict=True)


def embedded(config: Config, weights: Path) -> Roster:
    """Return the model server that runs in this process."""
    packaged = models.MODELS.get(config.model)
    model = EmbeddedModel(
        weights=weights,
        name=packaged.name if packaged else weights.stem,
        context=config.context_tokens,
        slots=config.slots,
        defaults=packaged.sampling if packaged else {},
        spilled=config.saved_conversations,
        spill_directory=config.saved_conversations_dir,
    )
    return in_process(Embedded.kind, functools.partial(Embedded, model))


async def _listen(
    config: Config, engine: Engine, identities: Identities, stack: AsyncExitStack
) -> Service:
    """Open all ports. What accepts clients opens last and closes first; until then nobody is sent here."""
    opened = asyncio.Event()
    operations = await _open_probes(config, engine, lambda: opened.is_set() and engine.ready, stack)
    grpc, http = await _open_doors(config, engine, identities, stack)
    opened.set()
    secured = "s" if config.tls_certificate_file else ""
    return Service(
        engine,
        f"ws{secured}://{_host(config.http_address)}:{http}/v1/responses",
        f"http{secured}://{_host(config.http_address)}:{http}/v1",
        f"{_host(config.grpc_address)}:{grpc}",
        f"http://{_host(config.operations_address)}:{operations}",
        tuple(model.id for model in engine.models().models),
    )


async def _open_probes(
    config: Config, engine: Engine, ready: Callable[[], bool], stack: AsyncExitStack
) -> int:
    """Open what operators ask. Return the port of their HTTP."""
    registry, address = engine.metrics.registry, _address(config.operations_address)
    operations = await serve_operations(ready, registry, address)
    stack.push_async_callback(operations.stop)
    health = await serve_health(ready, config.health_address)
    stack.push_async_callback(health.stop, 0)
    return operations.port


async def _open_doors(
    config: Config, engine: Engine, identities: Identities, stack: AsyncExitStack
) -> tuple[int, int]:
    """Open what clients connect to. Return the ports of gRPC and HTTP."""
    limits, tls = config.limits(), _tls(config)
    grpc = await transports.grpc.serve(engine, identities, limits, config.grpc_address, tls)
    stack.push_async_callback(grpc.stop, _STOP_SECONDS)
    address = _address(config.http_address)
    http = await transports.http.serve(engine, identities, limits, address, tls)
    stack.push_async_callback(http.stop)
    return grpc.port, http.port


def _tls(config: Config) -> Tls | None:
    """Return what TLS is spoken with; None where it is not."""
    if config.tls_certificate_file is None or config.tls_key_file is None:
        return None
    files = TlsFiles(
        certificate=config.tls_certificate_file,
        key=config.tls_key_file,
        client_ca=config.tls_client_ca_file,
    )
    return Tls(files)


def _address(address: str) -> Address:
    host, _, port = address.rpartition(":")
    return Address(host.strip("[]"), int(port))


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def _log_defect(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught. The loop's own words would quote the exception's text."""
    log.error("uncaught", exc_info=context.get("exception"))


def _compile_codec() -> None:
    """Make the codec's tables now: the first client would wait for them otherwise."""
    text = items_pb2.ContentPart(output_text=items_pb2.OutputText())
    item = items_pb2.Item(message=items_pb2.Message(content=[text]))
    event = events_pb2.OutputItemEvent(item=item)
    json_codec.encode(events_pb2.ServerEvent(output_item_done=event))
    json_codec.encode(events_pb2.ServerEvent(created=events_pb2.ResponseEvent()))
    json_codec.decode(
        events_pb2.ClientEvent, b'{"type":"response.create","input":[{"role":"user"}]}'
    )


def _settle_memory() -> None:
    """Collect rarely, and never look again at what was made while starting: pauses stay short."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
