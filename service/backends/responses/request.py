"""What an upstream is asked: what the client set, and the conversation as fragments of JSON."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import orjson

from service.backends import Prompt
from service.backends.hints import cache_key, salt
from service.backends.responses.terms import Terms
from turnwire import json_codec
from turnwire.v1 import events_pb2, items_pb2, responses_pb2

_Own: TypeAlias = Literal[
    "previous_response_id",
    "conversation_id",
    "conversation",
    "background",
    "metadata",
    "context_management",
    "tools",
]
_OURS: Sequence[_Own] = get_args(_Own)
"""Settings that concern this server, or that are said anew."""
_SAID = {
    *("type", "stream_id", "input", "stream", "generate", "include", "store", "background"),
    *("previous_response_id", "conversation", "metadata", "context_management", "moderation"),
    *("client_metadata", "stream_options", "tools", "model"),
}
"""Members that we say ourselves, or that are not for an upstream, also where a client sent null."""

_LOGPROBS, _THOUGHTS = "message.output_text.logprobs", "reasoning.encrypted_content"


def request_of(prompt: Prompt, terms: Terms) -> responses_pb2.CreateResponse:
    """Return what is asked of an upstream, without the conversation."""
    settings = _passed_on(prompt.settings)
    if settings.prompt_cache_key:
        settings.prompt_cache_key = cache_key(prompt.tenant, settings.prompt_cache_key)
    settings.model, settings.store = prompt.model, may_store(prompt, terms)
    return responses_pb2.CreateResponse(
        settings=settings,
        include=sorted(_included(prompt, terms)),
        extra_json=orjson.dumps(_extra(prompt, terms)).decode(),
    )


def may_store(prompt: Prompt, terms: Terms) -> bool:
    """Tell whether the upstream may keep the turn: only where it may be stored here, too."""
    return terms.state == "stored" and prompt.store


def http_body(
    request: responses_pb2.CreateResponse, tools: Iterable[items_pb2.Tool], items: Iterable[bytes]
) -> Sequence[bytes]:
    """Return the body of a POST."""
    request.stream = True
    return _spliced(json_codec.encode(request), tools, items)


def websocket_message(
    request: responses_pb2.CreateResponse, tools: Iterable[items_pb2.Tool], items: Iterable[bytes]
) -> Sequence[bytes]:
    """Return the message of a WebSocket."""
    event = events_pb2.ClientEvent(create=request)
    return _spliced(json_codec.encode(event), tools, items)


def _spliced(
    head: bytes, tools: Iterable[items_pb2.Tool], items: Iterable[bytes]
) -> Sequence[bytes]:
    """Join the parts of a request; `head` is an object that is never empty."""
    declared = [_declared(orjson.loads(json_codec.encode(tool))) for tool in tools]
    told = [b',"tools":', orjson.dumps(declared)] if declared else []
    return [head[:-1], *told, b',"input":[', b",".join(filter(None, items)), b"]}"]


def _declared(tool: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the client left out: to some servers null is not the same as nothing."""
    said = {name: value for name, value in tool.items() if value is not None}
    if isinstance(members := said.get("tools"), list):
        said["tools"] = [_declared(one) if isinstance(one, dict) else one for one in members]
    return said


def _passed_on(asked: responses_pb2.Settings) -> responses_pb2.Settings:
    """Leave out what asks this server for something, and what is said anew."""
    settings = responses_pb2.Settings()
    settings.CopyFrom(asked)
    for name in _OURS:
        settings.ClearField(name)
    settings.prompt_cache_options.ClearField("prewarm")
    settings.prompt_cache_options.ClearField("comparison_response_id")
    if not settings.prompt_cache_options.ByteSize():
        settings.ClearField("prompt_cache_options")
    return settings


def _included(prompt: Prompt, terms: Terms) -> set[str]:
    """Return what the output is to include. Models that do not think refuse to seal thoughts."""
    included = {*terms.include, *(prompt.include - {_THOUGHTS})}
    included |= {_LOGPROBS} if prompt.logprobs else set()
    if prompt.settings.HasField("reasoning") and not may_store(prompt, terms):
        included.add(_THOUGHTS)
    return included


def _extra(prompt: Prompt, terms: Terms) -> dict[str, Any]:
    extra = orjson.loads(prompt.extra_json or "{}")
    passed_on = {name: value for name, value in extra.items() if name not in _SAID}
    if terms.salt == "tenant":
        passed_on["cache_salt"] = salt(prompt.tenant)
    return passed_on
