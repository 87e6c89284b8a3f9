"""The composition root: the one module that knows every part, and in which order they start and stop."""

import asyncio
import dataclasses
import functools
import gc
import signal
from collections.abc import AsyncIterator, Callable, Iterator
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
from service import models
from service.audit.places import journal
from service.backends.http import Deadlines, HttpClient
from service.backends.llama_cpp.embedded import Embedded, EmbeddedModel
from service.backends.simulator.backend import Simulator, Speed
from service.compaction.compactors import Budget, compactor
from service.config import Config
from service.engine import Engine, Policies
from service.identity import Anonymous, Identities
from service.identity.keys import KeyFile
from service.memory import Memory, MemoryLimits
from service.memory.process import this_process
from service.metrics import Metrics
from service.moderation import Classifier
from service.moderation.embedded import EmbeddedClassifier
from service.moderation.remote import RemoteClassifier
from service.moderation.rules import RulesClassifier
from service.rendering.proof import Proof
from service.router import Router
from service.sealing import Seal
from service.servers import Roster, Server, alone, in_process
from service.servers.adapters import Adapters
from service.servers.detection import name_of, usual_url
from service.servers.file import read
from service.servers.fleet import Fleet
from service.store.held import TreeLimits
from service.store.opened import Opener, StoreChoice
from service.store.valkey.caller import Demands
from service.tenants import Tenants
from service.tenants.file import TenantsFile
from transports.health import serve_health
from transports.http import Address
from transports.operations import serve_operations
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
    metrics, identities = Metrics(registry), _identities(config)
    _compile_codec()
    async with AsyncExitStack() as stack:
        router = Router(aliases=roster.aliases)
        proof = Proof(config.identity_check_every, lambda o: metrics.token_identity.labels(o).inc())
        fleet = Fleet(roster, router, Adapters(proof).of, metrics)
        stack.push_async_callback(fleet.stop)
        await fleet.start()
        kept = await stack.enter_async_context(journal(config.journal, metrics, _STOP_SECONDS))
        policies = dataclasses.replace(
            _policies(config),
            identities=identities,
            tenants=_tenants(config, metrics),
            journal=kept,
            memory=_memory(config, metrics),
        )
        for classifier in policies.classifiers:
            stack.callback(classifier.close)
        limits = config.engine_limits()
        opener = Opener(_store(config), policies.memory, metrics, policies.quota_of)
        stores = await stack.enter_async_context(opener.opened())
        engine = Engine(router, stores, metrics, limits, policies)
        service = await _listen(config, engine, identities, stack)
        stack.push_async_callback(engine.drain, config.drain_seconds)
        yield service


async def serve(config: Config, roster: Roster, ready: Callable[[Service], None]) -> None:
    """Run the service until SIGTERM or SIGINT; call `ready` once it listens."""
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
    limits, registry, opened = config.limits(), engine.metrics.registry, asyncio.Event()

    def ready() -> bool:
        return opened.is_set() and engine.ready

    operations = await serve_operations(ready, registry, _address(config.operations_address))
    stack.push_async_callback(operations.stop)
    health = await serve_health(ready, config.health_address)
    stack.push_async_callback(health.stop, 0)
    grpc = await transports.grpc.serve(engine, identities, limits, config.grpc_address)
    stack.push_async_callback(grpc.stop, _STOP_SECONDS)
    http = await transports.http.serve(engine, identities, limits, _address(config.http_address))
    stack.push_async_callback(http.stop)
    opened.set()
    return Service(
        engine,
        f"ws://{_host(config.http_address)}:{http.port}/v1/responses",
        f"http://{_host(config.http_address)}:{http.port}/v1",
        f"{_host(config.grpc_address)}:{grpc.port}",
        f"http://{_host(config.operations_address)}:{operations.port}",
        tuple(model.id for model in engine.models().models),
    )


def _store(config: Config) -> StoreChoice:
    """Return which stores there are to be."""
    url = config.store_url
    return StoreChoice(
        kind=config.store,
        ttl=config.store_ttl_seconds,
        responses_bytes=config.store_bytes,
        conversations_bytes=config.conversations_bytes,
        tree=TreeLimits(bytes=config.store_tree_bytes, records=config.store_tree_records),
        most_bytes=config.max_conversation_bytes,
        keys=config.sealing_keys_file,
        file=config.store_file,
        url=url.get_secret_value() if url else "",
        demands=Demands(
            replicas=config.store_replicas,
            timeout=config.store_timeout_seconds,
            deadline=config.store_deadline_seconds,
        ),
    )


def _memory(config: Config, metrics: Metrics) -> Memory:
    limits = MemoryLimits(
        budget=config.memory_bytes,
        soft_mark=config.memory_soft_mark,
        hard_mark=config.memory_hard_mark,
    )
    memory = Memory(limits, this_process())
    memory.measure(metrics)
    return memory


def _policies(config: Config) -> Policies:
    """Raises `ValueError` and `OSError` for files and names that the operator has to mend."""
    keys, most_bytes = config.sealing_keys_file, config.max_conversation_bytes
    budget = Budget(
        kept_bytes=config.compaction_kept_bytes, summary_tokens=config.compaction_summary_tokens
    )
    return Policies(
        seal=Seal.read(keys, most_bytes) if keys else Seal.ephemeral(most_bytes),
        compactor=compactor(config.compactor, budget),
        classifiers=list(_classifiers(config)),
        verdict_bytes=config.verdict_cache_bytes,
    )


def _classifiers(config: Config) -> Iterator[Classifier]:
    if config.moderation_rules_file:
        yield RulesClassifier.read(config.moderation_model, config.moderation_rules_file)
    if config.moderation_embedded:
        yield EmbeddedClassifier("embedded")
    if config.moderation_url:
        key = config.moderation_api_key
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        http = HttpClient(config.moderation_url, headers, Deadlines())
        yield RemoteClassifier(config.moderation_model, http, config.moderation_deadline_seconds)


def _tenants(config: Config, metrics: Metrics) -> Tenants:
    """Raises `BadTenantsFile`."""

    def refused(limit: str) -> None:
        metrics.tenant_refusals.labels(limit).inc()

    if config.tenants_file is None:
        return Tenants(refused=refused)
    return Tenants(TenantsFile(config.tenants_file).allowance, refused)


def _identities(config: Config) -> Identities:
    return KeyFile.read(config.api_keys_file) if config.api_keys_file else Anonymous()


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
