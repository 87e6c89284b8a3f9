"""What servers of the chat completions API differ in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

_SAMPLING = frozenset({"temperature", "top_p", "presence_penalty", "frequency_penalty"})
_LOCAL = _SAMPLING | {"parallel_tool_calls"}
_HOSTED = _LOCAL | {
    *("prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier", "user"),
}

_NO_MORE = frozenset(
    {
        *("audio", "logit_bias", "modalities", "prediction", "seed", "stop", "web_search_options"),
    }
)
"""Members that OpenAI knows beyond the contract; it refuses all others."""

_TRTLLM = frozenset(
    {
        *(
            "add_generation_prompt",
            "best_of",
            "chat_template_kwargs",
            "documents",
            "early_stopping",
        ),
        *("ignore_eos", "include_stop_str_in_output", "length_penalty", "logit_bias", "min_p"),
        *("min_tokens", "repetition_penalty", "seed", "skip_special_tokens", "stop"),
        *("stop_token_ids", "thinking_token_budget", "top_k", "top_p_min", "use_beam_search"),
    }
)
"""Members that TensorRT-LLM knows beyond the contract; it refuses all others."""


@dataclass(frozen=True, slots=True)
class Carrier:
    """How a request carries the ids of its prompt."""

    name: str
    opens: bytes
    """What stands before the ids, in the body of a request."""
    closes: bytes
    asks: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Asks for the ids that were sampled."""
    proves: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Asks that the ids of the prompt be repeated."""


_RETURN = MappingProxyType({"return_token_ids": True})
_FIRST_CLASS = Carrier("prompt_token_ids", b'"prompt_token_ids":[', b"]", _RETURN, _RETURN)
_TRANSFER = Carrier(
    "kv_transfer_params",
    b'"kv_transfer_params":{"prompt_token_ids":[',
    b"]}",
    _RETURN,
    _RETURN,
)
_INPUT_IDS = Carrier(
    "input_ids",
    b'"input_ids":[',
    b"]",
    MappingProxyType({"return_output_ids_in_sglext": True}),
    MappingProxyType({"return_input_ids_in_sglext": True}),
)
_SILENT = Carrier("prompt_token_ids", b'"prompt_token_ids":[', b"]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of server."""

    name: str
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    settings: frozenset[str] = _LOCAL
    """Settings that it knows by the contract's names."""
    extras: frozenset[str] | None = None
    """Members that it knows beyond the contract; None where it ignores those that it does not know."""
    choice: Literal["none", "word", "named", "allowed"] = "named"
    """How it can be told which tools to call: not at all, by a word ("required"), by one tool's name, or
    by a list of names as well."""
    effort: Literal["member", "switch", "template"] = "member"
    """How it is told to think: by `reasoning_effort`; by that, and by the template's switch to think not
    at all; or by options of the template alone."""
    thoughts: str | None = None
    """The member of an answer's message in which it is told earlier thoughts, if it can be."""
    salted: bool = False
    """Whether `cache_salt` keeps tenants' prefixes apart in its cache."""
    session: str | None = None
    """The member that hints which requests belong to one conversation."""
    carriers: tuple[Carrier, ...] = ()
    """The ways in which it may take ids for a prompt, the best first."""
    health: str | None = None
    """What to ask whether it is well, at its root. Without it, which models it has."""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(
                name="vllm",
                limit="max_completion_tokens",
                effort="switch",
                thoughts="reasoning_content",
                salted=True,
                session="session_id",
                carriers=(_FIRST_CLASS, _TRANSFER),
                health="/health",
            ),
            Kind(
                name="sglang",
                limit="max_completion_tokens",
                effort="switch",
                thoughts="reasoning_content",
                salted=True,
                carriers=(_INPUT_IDS,),
                health="/health",
            ),
            Kind(
                name="trtllm",
                settings=_SAMPLING,
                extras=_TRTLLM,
                effort="switch",
                thoughts="reasoning_content",
                salted=True,
                carriers=(_SILENT,),
                health="/health",
            ),
            Kind(name="ollama", choice="none", thoughts="reasoning"),
            Kind(name="lmstudio", choice="word"),
            Kind(
                name="llama.cpp-chat",
                choice="word",
                effort="template",
                thoughts="reasoning_content",
                health="/health",
            ),
            Kind(
                name="openai",
                limit="max_completion_tokens",
                settings=_HOSTED,
                extras=_NO_MORE,
                choice="allowed",
                session="prompt_cache_key",
            ),
            Kind(name="chat", settings=_HOSTED),
        )
    }
)
"""By name. `chat` is any server that is none of the others."""
