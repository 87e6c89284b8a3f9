"""What a client asked for about sampling, by the names that vLLM has for it."""

from collections.abc import Mapping
from typing import Any

import orjson
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from service.backends.stops import stop_words_in
from service.errors import ModelError
from turnwire.v1 import responses_pb2

_CONTRACT = {"temperature", "top_p", "presence_penalty", "frequency_penalty"}
"""Parameters that the contract knows."""

_PASSED_ON = {
    *("ignore_eos", "logit_bias", "min_p", "min_tokens"),
    *("repetition_penalty", "seed", "top_k"),
}
"""Parameters that the contract does not know and engines do."""

_LEAST_TOP_P = 1e-6  # the likeliest token alone; engines refuse 0, or take it for not set


def parameters(settings: responses_pb2.Settings, extra_json: str) -> dict[str, Any]:
    """Return what the client set; what it left out is the engine's to choose."""
    extra = orjson.loads(extra_json or "{}")
    known = {name: value for name, value in extra.items() if name in _PASSED_ON}
    set_here = {f.name: value for f, value in settings.ListFields() if f.name in _CONTRACT}
    if "top_p" in set_here:
        set_here["top_p"] = max(set_here["top_p"], _LEAST_TOP_P)
    return {name: value for name, value in {**known, **set_here}.items() if value is not None}


def stop_words(extra_json: str) -> list[str]:
    """Return the client's stop words. Raises `ModelError` for what is none."""
    return stop_words_in(orjson.loads(extra_json or "{}").get("stop"))


def defaults_of(text: str) -> dict[str, Any]:
    """Return a model's own parameters, which an engine tells and leaves to its callers to set."""
    try:
        told = orjson.loads(text or "{}")
    except orjson.JSONDecodeError as error:
        raise ModelError("server_error", "The engine's sampling defaults are no JSON.") from error
    return dict(told) if isinstance(told, dict) else {}


def fill(message: Message, parameters: Mapping[str, Any], names: Mapping[str, str]) -> None:
    """Set parameters in a message; `names` are those that it has for them. Others are left out.

    Raises `ModelError` for values that cannot be.
    """
    for name, value in parameters.items():
        if field := names.get(name):
            _set(message, field, value)


def _set(message: Message, field: str, value: Any) -> None:
    try:
        if isinstance(value, dict):
            getattr(message, field).update(_biases(message, field, value))
        else:
            setattr(message, field, value)
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError("invalid_prompt", f"'{field}' has no value that it can have.") from error


def _biases(message: Message, field: str, value: Mapping[str, Any]) -> dict[Any, Any]:
    """Return a map with keys of the type that the message has: token ids, as numbers or as text."""
    entry = message.DESCRIPTOR.fields_by_name[field].message_type
    if entry is None:
        raise TypeError
    numeric = entry.fields_by_name["key"].type != FieldDescriptor.TYPE_STRING
    kind = int if numeric else str
    return {kind(int(token)): bias for token, bias in value.items()}
