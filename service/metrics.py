"""Every metric, in one class. Labels come from closed sets only: never an id, a tenant or content."""

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LIFETIMES = (1, 5, 15, 60, 300, 900, 1800, 3300, 3600, 7200)
_TURNS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
_STORE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
_ABORTS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 5)


class Metrics:
    """What the service tells Prometheus about itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._counter = functools.partial(Counter, registry=registry)
        self._gauge = functools.partial(Gauge, registry=registry)
        self._histogram = functools.partial(Histogram, registry=registry)
        self._define_connections()
        self._define_turns()
        self._define_tokens()
        self._define_state()
        self._define_store()
        self._define_memory()
        self._define_tenants()
        self._define_recovery()
        self._define_journal()
        self._define_moderation()
        self._define_servers()

    def _define_connections(self) -> None:
        self.connections_open = self._gauge(
            "turnwire_connections_open", "Connections that are open now.", ["transport"]
        )
        self.connections = self._counter(
            "turnwire_connections_total",
            "Connections that asked to be opened, by what became of it.",
            ["transport", "outcome"],
        )
        self.connection_lifetime = self._histogram(
            "turnwire_connection_lifetime_seconds",
            "How long connections lived, by why they ended.",
            ["transport", "reason"],
            buckets=_LIFETIMES,
        )
        self.connection_turns = self._histogram(
            "turnwire_connection_turns",
            "How many turns connections had in their life.",
            ["transport"],
            buckets=_TURNS,
        )
        self.draining = self._gauge("turnwire_draining", "1 while the service is going away.")

    def _define_turns(self) -> None:
        self.turns = self._counter(
            "turnwire_turns_total", "Turns that ended, by how.", ["transport", "outcome"]
        )
        self.turns_inflight = self._gauge(
            "turnwire_turns_inflight", "Turns that run now.", ["transport"]
        )
        self.turn_seconds = self._histogram(
            "turnwire_turn_seconds",
            "How long turns took, from their beginning to their last event.",
            ["transport"],
            buckets=_SECONDS,
        )
        self.abort_seconds = self._histogram(
            "turnwire_turn_abort_seconds",
            "Time from a client's departure until its model server's work was stopped.",
            ["transport"],
            buckets=_ABORTS,
        )
        self.refusals = self._counter(
            "turnwire_refusals_total",
            "Requests that were refused, by HTTP status.",
            ["transport", "status"],
        )

    def _define_tokens(self) -> None:
        self.time_to_first_token = self._histogram(
            "turnwire_time_to_first_token_seconds",
            "Time from a turn's beginning, its parent found, to the first output of its model.",
            ["transport"],
            buckets=_SECONDS,
        )
        self.prefill_tokens = self._counter(
            "turnwire_prefill_tokens_total",
            "Prompt tokens: cached by the model server, computed, or recomputed: lost from its cache.",
            ["transport", "kind"],
        )
        self.output_tokens = self._counter(
            "turnwire_output_tokens_total", "Tokens that models generated.", ["transport"]
        )

    def _define_state(self) -> None:
        self.hydrations = self._counter(
            "turnwire_hydrate_total",
            "Responses that were to be continued, by the layer that held them.",
            ["layer", "result"],
        )
        self.cache_evictions = self._counter(
            "turnwire_cache_evictions_total",
            "Responses that were let go of to make room.",
            ["layer", "reason"],
        )
        self.cache_bytes = self._gauge(
            "turnwire_cache_bytes", "Bytes of conversations held, by layer.", ["layer"]
        )
        self.cache_entries = self._gauge(
            "turnwire_cache_entries", "Responses held, by layer.", ["layer"]
        )

    def _define_store(self) -> None:
        self.store_operations = self._counter(
            "turnwire_store_operations_total",
            "What the store was asked to do, by how that ended.",
            ["operation", "result"],
        )
        self.store_seconds = self._histogram(
            "turnwire_store_operation_seconds",
            "How long the store took.",
            ["operation"],
            buckets=_STORE_SECONDS,
        )
        self.store_acknowledged = self._counter(
            "turnwire_store_acknowledged_total",
            "Responses that were stored, by whether as durably as asked.",
            ["level"],
        )
        self.store_tampered = self._counter(
            "turnwire_store_tampered_total",
            "Records that could not be opened: they count as absent.",
        )
        self.store_circuit_open = self._gauge(
            "turnwire_store_circuit_open", "1 while the store is left alone because it failed."
        )
        self.hydrated_records = self._histogram(
            "turnwire_hydrated_records",
            "Responses that were fetched from the store to continue one.",
            buckets=_RECORDS,
        )
        self.flights_shared = self._counter(
            "turnwire_hydrations_shared_total", "Hydrations that waited for another's instead."
        )

    def _define_memory(self) -> None:
        self.memory_bytes = self._gauge(
            "turnwire_memory_bytes",
            "The process's memory: held by conversations, resident, and the most it may have.",
            ["kind"],
        )
        self.memory_pressure = self._gauge(
            "turnwire_memory_pressure", "0, 1 from the soft mark on, 2 from the hard mark on."
        )

    def _define_tenants(self) -> None:
        self.tenant_refusals = self._counter(
            "turnwire_tenant_refusals_total",
            "Requests that were refused because their tenant had enough, by what of.",
            ["limit"],
        )
        self.identifications = self._counter(
            "turnwire_identifications_total",
            "Credentials that were shown, by kind and what became of it.",
            ["method", "result"],
        )
        self.revocations = self._counter(
            "turnwire_revocations_total",
            "Connections that ended because their credential was no longer good.",
        )

    def _define_recovery(self) -> None:
        self.detached_turns = self._gauge(
            "turnwire_detached_turns", "Turns that go on without their client now."
        )
        self.detached = self._counter(
            "turnwire_detachments_total",
            "Turns that went on without their client, by how that ended.",
            ["outcome"],
        )
        self.repeated = self._counter(
            "turnwire_idempotent_creates_total",
            "Creates with an idempotency key, by whether they were the first.",
            ["result"],
        )

    def _define_journal(self) -> None:
        self.journal_entries = self._counter(
            "turnwire_journal_entries_total",
            "Ended turns that were to be written down, by what became of it.",
            ["result"],
        )

    def _define_moderation(self) -> None:
        self.verdicts = self._counter(
            "turnwire_verdicts_total",
            "Texts that were screened, by whether their verdict was known already.",
            ["result"],
        )
        self.verdict_bytes = self._gauge(
            "turnwire_verdict_cache_bytes", "Bytes of verdicts held, of all tenants."
        )
        self.verdict_evictions = self._counter(
            "turnwire_verdict_evictions_total", "Verdicts that were let go of to make room."
        )
        self.classifier_failures = self._counter(
            "turnwire_classifier_failures_total", "Classifications that came to no verdict."
        )

    def _define_servers(self) -> None:
        self.token_identity = self._counter(
            "turnwire_token_identity_total",
            "Prompts that were rendered anew as a whole to prove the cached one, by the outcome.",
            ["outcome"],
        )
        self.server_up = self._gauge(
            "turnwire_server_up", "1 while a model server can be asked.", ["server"]
        )
        self.server_turns_inflight = self._gauge(
            "turnwire_server_turns_inflight",
            "Turns that a model server is asked for now.",
            ["server"],
        )
        self.server_retries = self._counter(
            "turnwire_server_retries_total",
            "Turns that went to another model server before they were answered, by why.",
            ["reason"],
        )
        self.affinity = self._counter(
            "turnwire_affinity_total",
            "Turns that there were servers for, by whether they went to where their conversation was.",
            ["result"],
        )


class TransportMetrics:
    """The metrics of one transport, with its label bound once: label lookups cost more than counting."""

    def __init__(self, metrics: Metrics, transport: str) -> None:
        self._metrics, self.transport = metrics, transport
        self.connections_open = metrics.connections_open.labels(transport)
        self.connection_turns = metrics.connection_turns.labels(transport)
        self.turns_inflight = metrics.turns_inflight.labels(transport)
        self.turn_seconds = metrics.turn_seconds.labels(transport)
        self.time_to_first_token = metrics.time_to_first_token.labels(transport)
        self.abort_seconds = metrics.abort_seconds.labels(transport)
        self.cached_tokens = metrics.prefill_tokens.labels(transport, "cached")
        self.computed_tokens = metrics.prefill_tokens.labels(transport, "computed")
        self.recomputed_tokens = metrics.prefill_tokens.labels(transport, "recomputed")
        self.output_tokens = metrics.output_tokens.labels(transport)

    def connected(self, outcome: str) -> None:
        """Count a connection that asked to be opened."""
        self._metrics.connections.labels(self.transport, outcome).inc()

    def lived(self, reason: str, seconds: float) -> None:
        """Count a connection that ended."""
        self._metrics.connection_lifetime.labels(self.transport, reason).observe(seconds)

    def turn(self, outcome: str) -> None:
        """Count a turn that ended."""
        self._metrics.turns.labels(self.transport, outcome).inc()

    def refused(self, status: int) -> None:
        """Count a request that was refused."""
        self._metrics.refusals.labels(self.transport, str(status)).inc()
