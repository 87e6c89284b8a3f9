"""What the recordings ask of vLLM: one exchange for every shape that an adapter reads."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

MODEL = "smollm2"
MESSAGES = [{"role": "user", "content": "Say hello."}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Tokyo", "Oslo"]}},
    "required": ["city"],
    "additionalProperties": False,
}
_FUNCTION = {"name": "get_weather", "description": "The weather in a city", "parameters": SCHEMA}
_STRICT = _FUNCTION | {"strict": True}
TOOL = {"type": "function", "function": _STRICT}
_LOOSE_TOOL = {"type": "function", "function": _FUNCTION}
_NOBODY_READS = [{"role": "user", "content": "-"}]
_LONG = "one two three four five six seven eight nine ten " * 30
_CHAT = "/v1/chat/completions"
_FEW = {"model": MODEL, "max_tokens": 6, "temperature": 0}
_STREAM = {"stream": True, "stream_options": {"include_usage": True}}


@dataclass(frozen=True)
class Exchange:
    """One request; `name` is the recording's."""

    name: str
    path: str
    body: Json | None = None
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


def everything(ids: Sequence[int]) -> Iterator[Exchange]:
    """Yield what needs no reasoning parser; `ids` are those of `MESSAGES`."""
    yield Exchange("models", "/v1/models", method="GET")
    yield Exchange("version", "/version", method="GET")
    yield from _tokenize()
    yield from _chat()
    yield from _chat_from_ids(list(ids))
    yield from _cached()
    yield from _errors(list(ids))
    yield from _completions(list(ids))
    yield from _generate(list(ids))
    yield from _responses()


def reasoning() -> Iterator[Exchange]:
    """Yield what needs `--reasoning-parser deepseek_r1`: the thought's end is made likely."""
    question = {"messages": MESSAGES, "logit_bias": {"12": 13}, "return_token_ids": True}
    yield Exchange("chat_reasoning", _CHAT, _FEW | _STREAM | question | {"max_tokens": 24})
    cut = {"messages": MESSAGES, "return_token_ids": True}
    yield Exchange("chat_reasoning_cut", _CHAT, _FEW | _STREAM | cut)
    said = {"input": "Say hello.", "max_output_tokens": 8, "temperature": 0, "stream": True}
    yield Exchange("responses_reasoning", "/v1/responses", {"model": MODEL} | said)


def _tokenize() -> Iterator[Exchange]:
    yield Exchange("tokenize_text", "/tokenize", {"prompt": "<|im_start|>user\nHello"})
    chat = {"messages": MESSAGES, "add_generation_prompt": True}
    yield Exchange("tokenize_messages", "/tokenize", chat)
    yield Exchange("tokenize_messages_tools", "/tokenize", chat | {"tools": [TOOL]})
    yield Exchange("detokenize", "/detokenize", {"tokens": [1, 4093, 198, 19556]})


def _chat() -> Iterator[Exchange]:
    text = _FEW | {"messages": MESSAGES}
    tools = text | {"tools": [TOOL], "max_tokens": 60}
    required = tools | {"tool_choice": "required", "return_token_ids": True}
    named = tools | {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
    scored = {"logprobs": True, "top_logprobs": 2}
    yield Exchange("chat_whole", _CHAT, text)
    yield Exchange("chat_text", _CHAT, text | _STREAM)
    yield Exchange(
        "chat_stop",
        _CHAT,
        text | _STREAM | {"max_tokens": 40, "stop": ["glad"], "return_token_ids": True},
    )
    yield Exchange("chat_logprobs", _CHAT, text | _STREAM | scored | {"max_tokens": 2})
    yield Exchange("chat_tool_required", _CHAT, required | _STREAM)
    yield Exchange("chat_tool_named", _CHAT, named | _STREAM)
    yield Exchange("chat_tool_cut", _CHAT, required | _STREAM | {"max_tokens": 18})
    loose = {"tools": [_LOOSE_TOOL], "max_tokens": 24}
    yield Exchange("chat_tool_not_strict", _CHAT, required | _STREAM | loose)
    shape = {"type": "json_schema", "json_schema": {"name": "city", "schema": SCHEMA}}
    yield Exchange(
        "chat_json_schema", _CHAT, text | _STREAM | {"response_format": shape, "max_tokens": 60}
    )


def _chat_from_ids(ids: Sequence[int]) -> Iterator[Exchange]:
    forwarded: Json = {
        "messages": _NOBODY_READS,
        "kv_transfer_params": {"prompt_token_ids": ids},
        "return_token_ids": True,
        "cache_salt": "a-salt-of-one-tenant",
    }
    text = _FEW | forwarded
    session = {"X-Session-ID": "conversation-1"}
    tool = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60}
    yield Exchange("chat_ids", _CHAT, text | _STREAM, headers=session)
    yield Exchange("chat_ids_tool_required", _CHAT, text | _STREAM | tool)
    yield Exchange("chat_ids_no_messages", _CHAT, text | _STREAM | {"messages": []})
    first_class = {"messages": _NOBODY_READS, "prompt_token_ids": ids, "return_token_ids": True}
    yield Exchange("chat_ids_first_class_is_ignored", _CHAT, _FEW | first_class | {"max_tokens": 1})


def _cached() -> Iterator[Exchange]:
    long = _FEW | _STREAM | {"messages": [{"role": "user", "content": _LONG}], "max_tokens": 2}
    yield Exchange("chat_not_cached", _CHAT, long | {"cache_salt": "salt-one"})
    yield Exchange("chat_cached", _CHAT, long | {"cache_salt": "salt-one"})
    yield Exchange("chat_cached_for_another", _CHAT, long | {"cache_salt": "salt-two"})


def _errors(ids: Sequence[int]) -> Iterator[Exchange]:
    text = _FEW | _STREAM | {"messages": MESSAGES}
    endless = {"messages": [{"role": "user", "content": _LONG * 40}]}
    wrong: Json = {"kv_transfer_params": {"prompt_token_ids": [999999]}}
    many: Json = {"kv_transfer_params": {"prompt_token_ids": [*ids] * 800}}
    yield Exchange("error_context_length", _CHAT, text | endless)
    yield Exchange("error_context_length_ids", _CHAT, text | many)
    yield Exchange("error_max_tokens", _CHAT, text | {"max_tokens": 100000})
    yield Exchange("error_parameter", _CHAT, text | {"temperature": -1})
    yield Exchange("error_type", _CHAT, text | {"temperature": "hot"})
    yield Exchange("error_model", _CHAT, text | {"model": "another"})
    yield Exchange("error_ids", _CHAT, text | wrong)
    yield Exchange("error_route", "/v1/nothing", {})


def _completions(ids: Sequence[int]) -> Iterator[Exchange]:
    prompt = _FEW | {"prompt": ids, "return_token_ids": True}
    yield Exchange("completion_ids", "/v1/completions", prompt | _STREAM)


def _generate(ids: Sequence[int]) -> Iterator[Exchange]:
    path = "/inference/v1/generate"
    sampling = {"max_tokens": 4, "temperature": 0}
    asked = {"model": MODEL, "token_ids": ids, "sampling_params": sampling}
    scored = asked | {"sampling_params": sampling | {"logprobs": 1, "max_tokens": 2}}
    schema = {"structured_outputs": {"json": SCHEMA}, "max_tokens": 60}
    shaped = asked | {"sampling_params": sampling | schema}
    stop = {"stop_token_ids": [588], "max_tokens": 40}
    yield Exchange("generate_whole", path, asked)
    yield Exchange("generate", path, asked | _STREAM | {"cache_salt": "salt-one"})
    yield Exchange("generate_text", path, asked | _STREAM | {"output_mode": "text"})
    yield Exchange("generate_logprobs", path, scored | _STREAM)
    yield Exchange("generate_schema", path, shaped | _STREAM)
    stopped = asked | {"sampling_params": sampling | stop}
    yield Exchange("generate_stop", path, stopped | _STREAM)
    many = asked | {"token_ids": [*ids] * 800}
    yield Exchange("generate_error_context_length", path, many)
    yield Exchange("generate_error_context_length_stream", path, many | _STREAM)
    wrong = asked | {"sampling_params": sampling | {"temperature": -1}}
    yield Exchange("generate_error_parameter", path, wrong)


def _responses() -> Iterator[Exchange]:
    path = "/v1/responses"
    text = {"model": MODEL, "input": "Say hello.", "temperature": 0, "max_output_tokens": 6}
    tool = {"tools": [{"type": "function"} | _STRICT], "tool_choice": "required"}
    yield Exchange("responses_whole", path, text)
    yield Exchange("responses_text", path, text | {"stream": True})
    yield Exchange("responses_tool", path, text | tool | {"stream": True, "max_output_tokens": 60})
    unknown = {"previous_response_id": "resp_1"}
    yield Exchange("responses_error_previous", path, text | unknown | {"stream": True})
    yield Exchange("responses_error_model", path, text | {"model": "another", "stream": True})
    yield Exchange("responses_error_parameter", path, text | {"temperature": -1, "stream": True})
