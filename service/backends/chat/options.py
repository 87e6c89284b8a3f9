"""What a request asks for beside its prompt: what the client set, in the words of one kind of server."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from service.backends import Prompt
from service.backends.chat.kinds import Kind
from service.backends.chat.openings import Opening
from service.backends.hints import cache_key, salt, session
from service.backends.stops import stop_words_in
from service.backends.tools import ToolChoice, schema_of, tool_choice
from service.errors import ModelError
from turnwire.v1 import responses_pb2

_OURS = {
    *("messages", "model", "n", "stream", "stream_options", "tools", "tool_choice", "functions"),
    *("cache_salt", "extra_key", "session_id", "session_params", "request_id", "rid", "store"),
    *("continue_final_message", "echo", "input_ids", "prompt_token_ids", "return_token_ids"),
    *("return_input_ids_in_sglext", "return_output_ids_in_sglext", "return_prompt_text"),
    *("bootstrap_host", "bootstrap_port", "bootstrap_room", "data_parallel_rank"),
    *("disaggregated_params", "ec_transfer_params", "kv_transfer_params", "routed_dp_rank"),
    *("best_of", "chat_template", "custom_logit_processor", "custom_params", "logits_processors"),
    *("lora_path", "lora_request", "media_io_kwargs", "mm_processor_kwargs", "priority"),
    *("prompt_logprobs", "return_hidden_states", "return_routed_experts", "stop_regex"),
    "vllm_xargs",
}
"""Members that are never a client's to set: the prompt, what concerns others than itself, and what a
server that is shared runs, loads, or tells at length."""


class Options(NamedTuple):
    """What a request asks for beside its prompt."""

    tools: Sequence[bytes]
    """Each serialised."""
    members: dict[str, Any]

    def body(self, prompt: Sequence[bytes], limit: Mapping[str, int]) -> list[bytes]:
        """Return a request's body; `prompt` are its members that hold the prompt, serialised."""
        tools = [b',"tools":[', b",".join(self.tools), b"]"] if self.tools else []
        rest = orjson.dumps({**self.members, **limit})[1:]
        return [b"{", *prompt, *tools, b",", rest]


def options_of(prompt: Prompt, kind: Kind, opening: Opening) -> Options:
    """Return what a prompt asks for. Raises `ModelError` for what cannot be honoured."""
    settings = prompt.settings
    extras = _extras(prompt, kind)
    tools, choice = _tools(kind, opening, tool_choice(settings, opening.toolbox))
    members = {
        **extras,
        **_hints(prompt, kind),
        **_passed_on(prompt, kind),
        **_text(settings),
        **_scores(prompt),
        **_effort(settings, kind, extras.get("chat_template_kwargs") or {}),
        **choice,
        "model": prompt.model,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if not tools:
        members.pop("parallel_tool_calls", None)
    return Options(tools, members)


def _extras(prompt: Prompt, kind: Kind) -> dict[str, Any]:
    """Return what the contract does not know, and the server may. Raises `ModelError`."""
    extras = orjson.loads(prompt.extra_json or "{}")
    stop_words_in(extras.get("stop"))
    return {
        name: value
        for name, value in extras.items()
        if name not in _OURS and (kind.extras is None or name in kind.extras)
    }


def _passed_on(prompt: Prompt, kind: Kind) -> dict[str, Any]:
    """Return settings by the contract's names; a key of the client's names nothing beyond its tenant."""
    settings = {f.name: v for f, v in prompt.settings.ListFields() if f.name in kind.settings}
    if key := settings.get("prompt_cache_key"):
        settings["prompt_cache_key"] = cache_key(prompt.tenant, key)
    return settings


def _hints(prompt: Prompt, kind: Kind) -> dict[str, Any]:
    """Say where the conversation's cache is, and whose it is."""
    hints = {"cache_salt": salt(prompt.tenant)} if kind.salted else {}
    if kind.session:
        hints[kind.session] = session(prompt.conversation)
    return hints


def _scores(prompt: Prompt) -> dict[str, Any]:
    if not prompt.logprobs:
        return {}
    return {"logprobs": True, "top_logprobs": prompt.settings.top_logprobs}


def _effort(
    settings: responses_pb2.Settings, kind: Kind, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Say how much to think; `given` are the client's own options for the template."""
    effort = settings.reasoning.effort
    if not effort:
        return {}
    if kind.effort == "template":
        told = {"reasoning_effort": effort, "enable_thinking": effort != "none"}
        return {"chat_template_kwargs": {**told, **given}}
    if kind.effort == "switch" and effort == "none":
        return {"chat_template_kwargs": {"enable_thinking": False, **given}}
    return {"reasoning_effort": effort}


def _text(settings: responses_pb2.Settings) -> dict[str, Any]:
    """Say what form the text has. Raises `ModelError` for unknown formats."""
    text = settings.text.format
    members = {"verbosity": settings.text.verbosity} if settings.text.verbosity else {}
    match text.WhichOneof("kind"):
        case "json_schema":
            return {**members, "response_format": _json_schema(text.json_schema)}
        case "json_object":
            return {**members, "response_format": {"type": "json_object"}}
        case "other_json":
            raise ModelError("invalid_prompt", "This model cannot honour this type of text.format.")
        case _:
            return members


def _json_schema(text: responses_pb2.JsonSchemaFormat) -> dict[str, Any]:
    form: dict[str, Any] = {"name": text.name, "schema": schema_of(text.schema_json)}
    if text.HasField("strict"):
        form["strict"] = text.strict
    if text.description:
        form["description"] = text.description
    return {"type": "json_schema", "json_schema": form}


def _tools(kind: Kind, opening: Opening, choice: ToolChoice) -> tuple[list[bytes], dict[str, Any]]:
    """Return the tools that are told, and which of them may be called.

    All are told where the server can be held to some: so prompts begin alike, whatever the choice.
    """
    every = list(opening.tools.values())
    some = [opening.tools[joined] for joined in choice.tools]
    if kind.choice == "none":
        return some, _unchoosable(choice)
    if not some:
        return every, {"tool_choice": "none"} if every else {}
    if len(some) < len(every) and (told := _told_choice(kind, choice)):
        return every, {"tool_choice": told}
    return some, {"tool_choice": "required"} if choice.forced else {}


def _told_choice(kind: Kind, choice: ToolChoice) -> dict[str, Any] | None:
    """Return how a server is held to some of its tools, if it can be."""
    if choice.forced and len(choice.tools) == 1 and kind.choice in {"named", "allowed"}:
        return _named(next(iter(choice.tools)))
    return _allowed(choice) if kind.choice == "allowed" else None


def _unchoosable(choice: ToolChoice) -> dict[str, Any]:
    if choice.forced:
        raise ModelError(
            "invalid_prompt", "This model server cannot be made to call a tool (tool_choice)."
        )
    return {}


def _named(joined: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": joined}}


def _allowed(choice: ToolChoice) -> dict[str, Any]:
    mode = "required" if choice.forced else "auto"
    allowed = {"mode": mode, "tools": [_named(joined) for joined in choice.tools]}
    return {"type": "allowed_tools", "allowed_tools": allowed}
