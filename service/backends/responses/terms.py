"""How an upstream is spoken to: what the operator decides about it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """What may be asked of one upstream. Raises `ValueError` for what no upstream can do."""

    transport: Literal["http", "websocket"] = "http"
    state: Literal["none", "stored", "connection"] = "none"
    """Who keeps a conversation: we alone; the upstream in its store, as far as the client has it stored;
    or the upstream on the connection, for as long as that lasts."""
    salt: Literal["none", "tenant"] = "none"
    """Whether it is told `cache_salt`, by which vLLM and SGLang keep tenants' caches apart."""
    include: Sequence[str] = ()
    """What it is always asked to include, `reasoning.encrypted_content` for models that always think."""
    connections: int = 64
    """WebSockets at most, busy ones included; the one that was used longest ago makes room."""
    idle_seconds: float = 300.0
    """After this long a WebSocket is closed, and what the upstream held on it is gone."""
    age_seconds: float = 3300.0
    """No turn begins on an older WebSocket: upstreams close them after an hour."""

    def __post_init__(self) -> None:
        if self.state == "connection" and self.transport != "websocket":
            raise ValueError("an upstream keeps state on a connection only over a WebSocket")
