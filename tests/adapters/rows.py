"""The rows: every way to drive a model server, each as an adapter and what it is in front of.

Behind nearly all of them is one real llama.cpp server with the tiny model, so that prompts are ids that
a model has read and answers are ids that it has sampled. `cannot` says what a row is not asked, and why.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias

from service.backends.engines.routes import Generate
from service.backends.engines.sglang import Sglang
from service.backends.engines.vllm import Vllm
from service.backends.responses.terms import Terms
from tests.adapters import makers, servers
from tests.adapters.makers import Make
from tests.adapters.servers import Behind
from tests.stand_ins.chat_server import (
    SGLANG,
    TRTLLM,
    VLLM,
    VLLM_OLD,
)
from tests.stand_ins.engine_server import (
    SglangStandIn,
    VllmStandIn,
)

Behaviour: TypeAlias = Literal[
    "calls",
    "characters",
    "checks",
    "free text",
    "isolation",
    "keys",
    "models",
    "prefixes",
    "prompts",
    "scores",
    "specials",
    "stop words",
    "wires",
    "work",
]
"""What tests are marked with that not every row can be asked."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One adapter."""

    name: str
    behind: Behind
    """Runs what it is in front of."""
    make: Make
    flood: Behind | None = None
    """Runs one that says more than all buffers on the way hold, where there is one."""
    endless: str = "Go on."
    """What makes the model go on for ever."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """For every turn."""
    cannot: Mapping[Behaviour, str] = field(default_factory=dict)


_NO_KEY: Mapping[Behaviour, str] = {"keys": "the stand-in asks for no key"}
_ONE_MODEL: Mapping[Behaviour, str] = {"models": "the server has one model, whatever it is called"}
_HERE: Mapping[Behaviour, str] = {
    "keys": "it runs in this process",
    "wires": "it runs in this process",
}
_STAND_IN = {
    **_NO_KEY,
    **_ONE_MODEL,
    "free text": "the stand-in tells whole calls only, and the tiny model never ends a string",
    "scores": "the stand-in tells none; recordings of a real server do",
}
_UPSTREAM: Mapping[Behaviour, str] = {
    "isolation": "the upstream sees one tenant: whoever holds the key",
}
_ENGINE: Mapping[Behaviour, str] = {
    **_NO_KEY,
    **_ONE_MODEL,
    "characters": "of a character's ids the llama.cpp behind the stand-in tells only the last",
}
_NO_SALT: Mapping[Behaviour, str] = {"isolation": "this gRPC knows no salt"}
_UNSALTED: Mapping[Behaviour, str] = {
    "isolation": "it sends a salt, which is tested with it, but the stand-in has one cache"
}


def _stored() -> Row:
    make = partial(makers.responses, Terms(state="stored"))
    return Row(
        name="responses-stored",
        behind=servers.turnwire,
        make=make,
        settings={"store": True},
        cannot=_UPSTREAM,
    )


ROWS = (
    Row(name="llama.cpp", behind=servers.real, make=makers.llama_cpp, cannot=_ONE_MODEL),
    Row(
        name="embedded",
        behind=servers.in_this_process,
        make=makers.embedded,
        cannot={
            **_HERE,
            **_ONE_MODEL,
            "prompts": "its server has a key that nobody else knows",
            "specials": "its server has a key that nobody else knows",
            "work": "its server has a key that nobody else knows",
        },
    ),
    Row(
        name="pool",
        behind=servers.real,
        make=makers.pool,
        cannot={
            "checks": "a pool knows what was seen when its servers were looked at last",
            "keys": "each server says so itself",
            "models": "a pool is of one model",
        },
    ),
    Row(
        name="llama.cpp-chat",
        behind=servers.real,
        make=partial(makers.messages, "llama.cpp-chat"),
        cannot={
            **_ONE_MODEL,
            "calls": "llama.cpp lets a model talk before a call, and the tiny one never stops",
            "isolation": "it is told messages, and knows no tenants",
            "specials": "it tokenises messages itself",
        },
    ),
    Row(
        name="chat",
        behind=partial(servers.chat, VLLM_OLD),
        make=partial(makers.messages, "chat"),
        cannot={**_STAND_IN, "isolation": "chat completions as such know no tenants"},
    ),
    Row(
        name="vllm",
        behind=partial(servers.chat, VLLM),
        make=partial(makers.chat_ids, "vllm"),
        cannot=_STAND_IN,
    ),
    Row(
        name="sglang",
        behind=partial(servers.chat, SGLANG),
        make=partial(makers.chat_ids, "sglang"),
        cannot=_STAND_IN,
    ),
    Row(
        name="trtllm",
        behind=partial(servers.chat, TRTLLM),
        make=partial(makers.chat_ids, "trtllm"),
        cannot=_STAND_IN,
    ),
    Row(
        name="vllm-grpc",
        behind=partial(servers.grpc, VllmStandIn, servers.Plain),
        flood=partial(servers.grpc, VllmStandIn, servers.Fountain),
        make=partial(makers.rpc, Vllm),
        cannot={**_ENGINE, **_NO_SALT},
    ),
    Row(
        name="sglang-grpc",
        behind=partial(servers.grpc, SglangStandIn, servers.Plain),
        flood=partial(servers.grpc, SglangStandIn, servers.Fountain),
        make=partial(makers.rpc, Sglang),
        cannot={**_ENGINE, **_NO_SALT},
    ),
    Row(
        name="vllm-generate",
        behind=partial(servers.http, Generate.path, servers.Plain),
        flood=partial(servers.http, Generate.path, servers.Fountain),
        make=makers.vllm_http,
        cannot={**_ENGINE, **_UNSALTED},
    ),
    Row(
        name="responses",
        behind=servers.turnwire,
        make=partial(makers.responses, Terms()),
        cannot={
            **_UPSTREAM,
            "prefixes": "told all anew, the upstream takes it for another conversation, in any slot",
        },
    ),
    _stored(),
    Row(
        name="responses-websocket",
        behind=servers.turnwire,
        make=partial(makers.responses, Terms(transport="websocket", state="connection")),
        cannot=_UPSTREAM,
    ),
    Row(
        name="simulator",
        behind=servers.in_this_process,
        make=makers.simulator,
        endless="#sim text 100000",
        cannot={
            **_HERE,
            "models": "it answers to every name",
            "prompts": "it reads no prompt",
            "specials": "it has no special tokens",
            "stop words": "it knows none",
            "work": "nobody else works for it",
        },
    ),
)
