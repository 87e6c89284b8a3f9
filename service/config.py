"""The configuration: environment variables `TURNWIRE_*` in, one frozen `Config` out.

Defaults live here and nowhere else. Unknown names and bad values stop the process with a list.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.connection import ConnectionLimits
from service.engine import EngineLimits
from service.limits import MIB, Limits, TurnLimits
from service.loopback import is_loopback
from service.servers import Kind
from service.servers.detection import usual_url
from service.servers.file import check_tokenizer, checked_address
from service.session import SessionLimits
from service.store.valkey.address import address_of

_PREFIX = "TURNWIRE_"
_ELSEWHERE = {"TURNWIRE_CACHE_DIR"}
"""Names that other modules read."""
_IN_PROCESS = {"embedded", "simulator"}
_UNNAMED = {*_IN_PROCESS, "auto"}


class Config(BaseSettings):
    """How the service runs. Times are in seconds, sizes in bytes unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True)

    http_address: str = Field("127.0.0.1:8400", description="WebSocket (and HTTP) address")
    grpc_address: str = Field("127.0.0.1:8401", description="gRPC address")
    health_address: str = Field("127.0.0.1:8402", description="grpc.health.v1 address for probes")
    operations_address: str = Field(
        "127.0.0.1:9464", description="HTTP address of /healthz, /readyz and /metrics"
    )

    models_file: Path | None = Field(
        None, description="model servers, and which models they have: docs/servers.md"
    )
    backend: Literal[Kind, "embedded", "auto", "simulator"] = Field(
        "embedded",
        description="without such a file: the model server's kind; auto is whatever listens on this machine",
    )
    backend_url: str | None = Field(
        None,
        description="where it listens, by default at its usual port on this machine; "
        "with auto it is asked what it is",
    )
    backend_api_key: SecretStr | None = Field(None, description="that server's API key")
    backend_tokenizer: Path | None = Field(
        None,
        description="a directory with that server's tokenizer and template, so that it is sent token ids",
    )
    model: str = Field("smollm2", description="the embedded model: a known name, or a GGUF file")
    context_tokens: int = Field(
        16384, ge=512, description="context of the embedded model, over all slots"
    )
    slots: int = Field(4, ge=1, le=64, description="conversations the embedded model keeps cached")
    saved_conversations: int = Field(
        0,
        ge=0,
        le=1024,
        description="more of them, that it saves to files when others take their place",
    )
    saved_conversations_dir: Path = Field(
        Path("/dev/shm"),  # noqa: S108 - in memory: what was said can be computed from these files
        description="where these files are: in memory as a rule, for what is said can be computed from them",
    )

    simulator_first_token_seconds: float = Field(
        0.05, ge=0, description="the simulator's time to first token"
    )
    simulator_tokens_per_second: float = Field(
        200.0, ge=0, description="the simulator's speed; 0 is at once"
    )
    simulator_prefill_seconds_per_token: float = Field(
        0.0, ge=0, description="the simulator's cost of an uncached prompt token"
    )

    identity_check_every: int = Field(
        1000,
        ge=0,
        description="one in so many prompts is rendered anew as a whole to prove the cached one; 0 is never",
    )

    api_keys_file: Path | None = Field(
        None, description="API keys; without it, only loopback addresses are allowed"
    )
    tenants_file: Path | None = Field(
        None, description="what each tenant may have: docs/tenants.md"
    )
    jwt_issuer: str | None = Field(
        None, description="whose JSON Web Tokens are taken beside keys: their iss"
    )
    jwt_audience: str | None = Field(None, description="whom they must be meant for: their aud")
    jwt_jwks_url: str | None = Field(
        None, description="where that issuer's keys are; found by OpenID discovery if left out"
    )
    jwt_algorithms: Annotated[tuple[str, ...], NoDecode] = Field(
        ("RS256", "ES256", "EdDSA"), description="how they may be signed, by commas"
    )
    jwt_tenant_claim: str = Field("sub", description="the claim that names the tenant")
    certificate_names_file: Path | None = Field(
        None, description="which tenant each name in a client's certificate is"
    )
    tls_certificate_file: Path | None = Field(
        None, description="the server's certificate chain in PEM: with it, TLS on both ports"
    )
    tls_key_file: Path | None = Field(None, description="its key in PEM")
    tls_client_ca_file: Path | None = Field(
        None, description="who may sign clients' certificates, in PEM: with it they are asked for"
    )
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="browser origins that may connect, separated by commas"
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="names, beside localhost, that a server without keys answers to, by commas"
    )

    store: Literal["memory", "sqlite", "valkey"] = Field(
        "memory", description="where stored responses and conversations are kept: docs/state.md"
    )
    store_file: Path = Field(Path("turnwire.db"), description="SQLite's file")
    store_url: SecretStr | None = Field(
        None,
        description="Valkey's or Redis's address: valkey://user:password@host:6379/0, valkeys:// for TLS, "
        "valkey+cluster:// for a cluster",
    )
    store_replicas: int = Field(
        0, ge=0, description="of Valkey's, that must have a response before it is acknowledged"
    )
    store_timeout_seconds: float = Field(
        1.0, gt=0, description="for one answer of the store, and for those replicas"
    )
    store_deadline_seconds: float = Field(
        10.0, gt=0, description="for a response to be stored, a failover of the store included"
    )
    store_tree_bytes: int = Field(
        4 * MIB,
        ge=64 * 1024,
        description="of one conversation's tree; what does not fit begins another one",
    )
    store_tree_records: int = Field(2000, ge=2, description="the same in responses")
    store_bytes: int = Field(
        256 * MIB, ge=MIB, description="memory for stored responses: all, or those used lately"
    )
    store_ttl_seconds: float = Field(
        86_400.0, gt=0, description="how long a stored response is kept after its last use"
    )
    conversations_bytes: int = Field(
        64 * MIB, ge=MIB, description="memory for conversations that have an id of their own"
    )
    memory_bytes: int = Field(
        1024 * MIB,
        ge=16 * MIB,
        description="for all conversations in memory together, connections' own included",
    )
    memory_soft_mark: float = Field(
        0.80, gt=0, le=1, description="the part of the process's memory at which caches give way"
    )
    memory_hard_mark: float = Field(
        0.92, gt=0, le=1, description="the part of it from which on nothing new is accepted"
    )
    connection_cache_bytes: int = Field(
        32 * MIB, ge=MIB, description="memory for the responses of one connection"
    )

    sealing_keys_file: Path | None = Field(
        None,
        description="keys for what clients keep in sealed form (compactions, reasoning) and for what is "
        "stored: 32 bytes each in base64, one a line, the newest first ('turnwire keys sealing' makes "
        "one); without it a key that a restart forgets",
    )
    compactor: str = Field(
        "model",
        description="what compacts conversations: model, recent, or your own as package.module:factory",
    )
    compaction_summary_tokens: int = Field(
        1024, ge=64, description="how long a summary may become, thinking included"
    )
    compaction_kept_bytes: int = Field(
        32 * 1024, ge=1024, description="what a compaction keeps of the conversation word for word"
    )
    moderation_model: str = Field(
        "omni-moderation-latest", description="the classifier's name, as clients ask for it"
    )
    moderation_rules_file: Path | None = Field(
        None, description="a classifier by patterns: a TOML table for each category"
    )
    moderation_url: str | None = Field(
        None, description="a classifier behind POST /v1/moderations: its server's address"
    )
    moderation_api_key: SecretStr | None = Field(None, description="that server's API key")
    moderation_deadline_seconds: float = Field(10.0, gt=0, description="for that server to answer")
    moderation_embedded: bool = Field(
        default=False, description="a classifier in this process that needs nothing else"
    )
    verdict_cache_bytes: int = Field(
        4 * MIB, ge=0, description="memory for the verdicts on one tenant's items; 0 is none"
    )

    max_connections: int = Field(20_000, ge=1, description="connections, all transports")
    max_background_responses: int = Field(
        64, ge=0, description="responses that a tenant may have made in the background at once"
    )
    max_active_turns: int = Field(16, ge=1, description="turns that run at once on a connection")
    max_waiting_turns: int = Field(64, ge=1, description="turns that wait on a connection")
    max_lanes: int = Field(32, ge=1, description="named lanes in a connection's life")
    max_message_bytes: int = Field(64 * MIB, ge=1024, description="the largest client message")
    max_conversation_bytes: int = Field(
        64 * MIB, ge=1024, description="the longest conversation, in bytes of its items"
    )
    max_outbound_bytes: int = Field(
        4 * MIB, ge=1024, description="unsent bytes beyond which a connection's turns wait"
    )
    connection_age_seconds: float = Field(3600.0, gt=0, description="a connection's longest life")
    connection_retirement_seconds: float = Field(
        300.0,
        ge=0,
        description="this long before that, or half that life, it goes as soon as no turn runs",
    )
    send_deadline_seconds: float = Field(10.0, gt=0, description="for a client to read")
    receive_deadline_seconds: float = Field(30.0, gt=0, description="for a message to arrive whole")
    handshake_deadline_seconds: float = Field(
        5.0, gt=0, description="for a connection to be set up"
    )
    ping_interval_seconds: float = Field(20.0, gt=0, description="silence before a ping")
    ping_timeout_seconds: float = Field(20.0, gt=0, description="for the answer to a ping")
    keepalive_seconds: float = Field(
        30.0, gt=0, description="silence of a model before its client is told that it still runs"
    )
    stall_seconds: float = Field(
        600.0, gt=0, description="silence of a model before its turn fails"
    )
    grace_seconds: float = Field(
        30.0,
        ge=0,
        description="that a response with store=true goes on without its client, to be picked up again",
    )
    journal: str = Field(
        "none",
        description="where ended turns are written down: none, stdout, a file's path, or an OTLP "
        "endpoint's URL: docs/journal.md",
    )
    drain_seconds: float = Field(30.0, ge=0, description="for turns to finish when stopping")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="log level")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="auto: console on a terminal, JSON otherwise"
    )

    @field_validator("allowed_origins", "allowed_hosts", "jwt_algorithms", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Read a comma-separated list."""
        if not isinstance(value, str):
            return value
        return tuple(origin.strip() for origin in value.split(",") if origin.strip())

    @field_validator("moderation_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        """Refuse what is no HTTP address."""
        return value if value is None else checked_address(value, "chat")

    @field_validator("http_address", "grpc_address", "health_address", "operations_address")
    @classmethod
    def _address(cls, value: str) -> str:
        """Refuse what is no `host:port`."""
        host, _, port = value.rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise ValueError(f"'{value}' is not an address: expected host:port")
        return value

    @model_validator(mode="after")
    def _known(self) -> Self:
        """Refuse names that mean nothing: a misspelt limit would silently not hold."""
        known = {f"{_PREFIX}{name.upper()}" for name in type(self).model_fields} | _ELSEWHERE
        given = {name.upper() for name in os.environ if name.upper().startswith(_PREFIX)}
        if unknown := sorted(given - known):
            raise ValueError(f"unknown settings: {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _one_choice_of_servers(self) -> Self:
        """Refuse two descriptions of the model servers, and one that says too little."""
        if self.models_file:
            if any(name.startswith("backend") for name in self.model_fields_set):
                raise ValueError(
                    f"{_PREFIX}MODELS_FILE says it all: {_PREFIX}BACKEND* cannot be set beside it"
                )
        elif self.backend_url or self.backend not in _UNNAMED:
            self._check_backend()
        elif self.backend_tokenizer:
            raise ValueError(
                f"{_PREFIX}BACKEND_TOKENIZER is for one server: set {_PREFIX}BACKEND_URL"
            )
        return self

    def _check_backend(self) -> None:
        """Refuse what does not fit, or would silently mean nothing while another model answers."""
        if self.backend in _IN_PROCESS:
            raise ValueError(
                f"{_PREFIX}BACKEND_URL: nothing is asked there with {_PREFIX}BACKEND={self.backend}. "
                "Name the kind of that server, or auto"
            )
        try:
            checked_address(self.backend_url or usual_url(self.backend), self.backend)
        except ValueError as error:
            raise ValueError(f"{_PREFIX}BACKEND_URL: {error}") from None
        try:
            check_tokenizer(self.backend_tokenizer, self.backend)
        except ValueError as error:
            raise ValueError(f"{_PREFIX}BACKEND_TOKENIZER: {error}") from None

    @model_validator(mode="after")
    def _stored_sealed(self) -> Self:
        """Refuse a store elsewhere without its address, or without keys that outlive the process."""
        if self.store != "memory" and self.sealing_keys_file is None:
            raise ValueError(
                f"{_PREFIX}STORE={self.store} seals what it keeps: set {_PREFIX}SEALING_KEYS_FILE to a "
                "file of keys (make one with 'turnwire keys sealing > FILE')"
            )
        if self.store == "valkey" and self.store_url is None:
            raise ValueError(
                f"{_PREFIX}STORE=valkey needs {_PREFIX}STORE_URL, for example valkey://127.0.0.1:6379"
            )
        if self.store_url:
            try:
                address_of(self.store_url.get_secret_value())
            except ValueError as error:
                raise ValueError(f"{_PREFIX}STORE_URL: {error}") from None
        return self

    @model_validator(mode="after")
    def _one_classifier(self) -> Self:
        """Refuse two classifiers under one name."""
        if self.moderation_rules_file and self.moderation_url:
            raise ValueError(
                f"{_PREFIX}MODERATION_RULES_FILE and {_PREFIX}MODERATION_URL exclude each other"
            )
        return self

    @model_validator(mode="after")
    def _identified(self) -> Self:
        """Refuse tokens, and certificates, that are only half described."""
        issuer, audience = self.jwt_issuer, self.jwt_audience
        if bool(issuer) != bool(audience) or (self.jwt_jwks_url and not issuer):
            raise ValueError(f"{_PREFIX}JWT_ISSUER and {_PREFIX}JWT_AUDIENCE go together")
        if bool(self.tls_certificate_file) != bool(self.tls_key_file):
            raise ValueError(f"{_PREFIX}TLS_CERTIFICATE_FILE and {_PREFIX}TLS_KEY_FILE go together")
        if self.tls_client_ca_file and not self.tls_certificate_file:
            raise ValueError(f"{_PREFIX}TLS_CLIENT_CA_FILE needs {_PREFIX}TLS_CERTIFICATE_FILE")
        if self.certificate_names_file and not self.tls_client_ca_file:
            raise ValueError(f"{_PREFIX}CERTIFICATE_NAMES_FILE needs {_PREFIX}TLS_CLIENT_CA_FILE")
        return self

    @property
    def open_to_all(self) -> bool:
        """Whether nobody has to show who they are."""
        return not (self.api_keys_file or self.jwt_issuer or self.certificate_names_file)

    @model_validator(mode="after")
    def _safe(self) -> Self:
        """Without keys anyone who reaches the service may use it: let only this machine reach it."""
        if self.open_to_all:
            for name in ("http_address", "grpc_address"):
                if not is_loopback(_host(getattr(self, name))):
                    raise ValueError(
                        f"{_PREFIX}{name.upper()} is not a loopback address: set "
                        f"{_PREFIX}API_KEYS_FILE (make keys with 'turnwire keys new TENANT')"
                    )
        return self

    def limits(self) -> Limits:
        """Return what transports keep to."""
        return Limits(
            message_bytes=self.max_message_bytes,
            outbound_bytes=self.max_outbound_bytes,
            send_deadline=self.send_deadline_seconds,
            receive_deadline=self.receive_deadline_seconds,
            handshake_deadline=self.handshake_deadline_seconds,
            ping_interval=self.ping_interval_seconds,
            ping_timeout=self.ping_timeout_seconds,
            allowed_origins=self.allowed_origins,
            allowed_hosts=self.allowed_hosts,
        )

    def engine_limits(self) -> EngineLimits:
        """Return what the engine keeps to."""
        session = SessionLimits(
            active=self.max_active_turns, lanes=self.max_lanes, waiting=self.max_waiting_turns
        )
        return EngineLimits(
            connection=ConnectionLimits(
                session=session,
                age=self.connection_age_seconds,
                retirement=min(self.connection_retirement_seconds, self.connection_age_seconds / 2),
                cache_bytes=self.connection_cache_bytes,
                grace=self.grace_seconds,
            ),
            turn=TurnLimits(
                keepalive=self.keepalive_seconds,
                stall=self.stall_seconds,
                conversation_bytes=self.max_conversation_bytes,
            ),
            connections=self.max_connections,
            background=self.max_background_responses,
        )


def settings_table() -> str:
    """Return all settings as a Markdown table: `docs/configuration.md` holds it."""
    rows = ["| variable | default | what |", "|---|---|---|"]
    for name, field in Config.model_fields.items():
        default = "" if field.default in (None, ()) else f"`{field.default}`"
        rows.append(f"| `{_PREFIX}{name.upper()}` | {default} | {field.description} |")
    return "\n".join(rows)


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")
