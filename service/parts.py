"""The parts of the service that its settings choose, each made of them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

from service.audit.places import journal
from service.backends.http import Deadlines, HttpClient
from service.compaction import Compactor
from service.compaction.compactors import Budget, compactor
from service.config import Config
from service.engine import Policies
from service.identity import Anonymous, Identities
from service.identity.authenticator import Authenticator, Method
from service.identity.certificates import CertificateNames
from service.identity.issuer import Issuer
from service.identity.keys import KeyFile
from service.identity.tokens import Claims, Tokens
from service.memory import Memory, MemoryLimits
from service.memory.process import this_process
from service.metrics import Metrics
from service.moderation import Classifier
from service.moderation.embedded import EmbeddedClassifier
from service.moderation.remote import RemoteClassifier
from service.moderation.rules import RulesClassifier
from service.sealing import Seal
from service.store.held import TreeLimits
from service.store.opened import StoreChoice
from service.store.valkey.caller import Demands
from service.tenants import Tenants
from service.tenants.file import TenantsFile

_STOP_SECONDS = 5.0
"""For the journal to write what waits."""


@asynccontextmanager
async def policies_of(config: Config, metrics: Metrics) -> AsyncIterator[Policies]:
    """Make all that the engine is to go by.

    Raises `BadFile`, `BadJournal`, `ValueError` and `OSError` for what the operator has to mend.
    """
    tenants, classifiers = _tenants(config, metrics), list(_classifiers(config))
    async with AsyncExitStack() as stack:
        for classifier in classifiers:
            stack.callback(classifier.close)
        yield Policies(
            seal=_seal(config),
            compactor=_compactor(config),
            classifiers=classifiers,
            verdict_bytes=config.verdict_cache_bytes,
            identities=await _identities(config, tenants, metrics, stack),
            tenants=tenants,
            journal=await stack.enter_async_context(
                journal(config.journal, metrics, _STOP_SECONDS)
            ),
            memory=_memory(config, metrics),
        )


def store_of(config: Config) -> StoreChoice:
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


def _seal(config: Config) -> Seal:
    keys, most_bytes = config.sealing_keys_file, config.max_conversation_bytes
    return Seal.read(keys, most_bytes) if keys else Seal.ephemeral(most_bytes)


def _compactor(config: Config) -> Compactor:
    budget = Budget(
        kept_bytes=config.compaction_kept_bytes, summary_tokens=config.compaction_summary_tokens
    )
    return compactor(config.compactor, budget)


async def _identities(
    config: Config, tenants: Tenants, metrics: Metrics, stack: AsyncExitStack
) -> Identities:
    """Return who may come in, and how they show it."""
    ways: dict[Method, Identities] = {}
    if config.api_keys_file:
        ways[Method.KEY] = KeyFile.read(config.api_keys_file)
    if config.jwt_issuer and config.jwt_audience:
        issuer = Issuer(config.jwt_issuer, config.jwt_algorithms, config.jwt_jwks_url)
        stack.push_async_callback(issuer.stop)
        await issuer.start()
        claims = Claims(audience=config.jwt_audience, tenant=config.jwt_tenant_claim)
        ways[Method.TOKEN] = Tokens(issuer, claims)
    if config.certificate_names_file:
        ways[Method.CERTIFICATE] = CertificateNames.read(config.certificate_names_file)
    return Authenticator(ways, tenants.suspended, metrics) if ways else Anonymous()


def _tenants(config: Config, metrics: Metrics) -> Tenants:
    """Raises `BadFile`."""

    def refused(limit: str) -> None:
        metrics.tenant_refusals.labels(limit).inc()

    if config.tenants_file is None:
        return Tenants(refused=refused)
    return Tenants(TenantsFile(config.tenants_file).allowance, refused)


def _memory(config: Config, metrics: Metrics) -> Memory:
    limits = MemoryLimits(
        budget=config.memory_bytes,
        soft_mark=config.memory_soft_mark,
        hard_mark=config.memory_hard_mark,
    )
    memory = Memory(limits, this_process())
    memory.measure(metrics)
    return memory


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
