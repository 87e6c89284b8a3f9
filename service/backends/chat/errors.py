"""What chat servers complain of, in our words: foreign text is read, never repeated."""

import re
from typing import Any, NamedTuple

import orjson

from service.errors import ModelError, Unavailable

_TOO_LONG = {
    "context_length_exceeded",
    "context_window_exceeded",
    "exceed_context_size_error",
    "model_context_window_exceeded",
}
_SAYS_TOO_LONG = re.compile(
    r"context (length|window|size)\b.*(exceed|long|large|limit)"
    r"|(exceed|long|large|limit|maximum|greater).*\bcontext (length|window|size)"
    r"|exceed.*\bmax_(seq_len|num_tokens)\b|\bcontext\b.*\boverflow"
    r"|maximum (allowed )?(prompt|input) length"
    r"|(prompt|input) is too long|reduce the length",
    re.DOTALL,
)
"""The words of vLLM, SGLang, TensorRT-LLM, llama.cpp, Ollama, LM Studio and hosted servers, in lower case."""
_LONGEST = 1024  # characters of a complaint that are read
_PARAMETERS = {
    *("frequency_penalty", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens"),
    *("messages", "min_p", "parallel_tool_calls", "presence_penalty", "reasoning_effort"),
    *("response_format", "seed", "service_tier", "stop", "temperature", "tool_choice", "tools"),
    *("top_k", "top_logprobs", "top_p"),
}
"""Parameters that may be named to a client."""

_NOT_OF_LENGTH = {401, 403, 429}
_MEANINGS: dict[int, tuple[type[ModelError], str, str]] = {
    401: (ModelError, "server_error", "The model server refused its API key."),
    403: (ModelError, "server_error", "The model server refused its API key."),
    404: (ModelError, "server_error", "There is no chat completions API at this address."),
    405: (ModelError, "server_error", "There is no chat completions API at this address."),
    408: (Unavailable, "server_error", ""),
    425: (Unavailable, "server_error", ""),
    429: (Unavailable, "rate_limit_exceeded", "The model server is busy; try again."),
    499: (Unavailable, "server_error", ""),
}
"""Of other statuses, 400 and above blame the request, 500 and above the server."""


class _Complaint(NamedTuple):
    """What a server says of an error."""

    codes: set[str]
    text: str
    param: str

    @property
    def too_long(self) -> bool:
        """Whether the conversation is too long for the model."""
        return bool(self.codes & _TOO_LONG or _SAYS_TOO_LONG.search(self.text))

    @property
    def of_the_model(self) -> bool:
        """Whether there is no such model, rather than no such address."""
        return "model_not_found" in self.codes or "model" in self.text


def error_of(status: int, content: bytes) -> ModelError:
    """Return what an answer that is none means."""
    return _meant(status, _complaint(_parsed(content)))


def streamed_error(event: dict[str, Any]) -> ModelError:
    """Return what an event means that tells of an error in place of more of an answer."""
    error = event["error"]
    code = error.get("code") if isinstance(error, dict) else None
    return _meant(code if isinstance(code, int) else 500, _complaint(event))


def _meant(status: int, complaint: _Complaint) -> ModelError:
    said = f"The model server answered with HTTP status {status}."
    if complaint.too_long and status not in _NOT_OF_LENGTH:
        return ModelError(
            "context_length_exceeded", "The conversation does not fit the model's context."
        )
    if status == 404 and complaint.of_the_model:
        return ModelError("model_not_found", "The model server does not have this model.")
    if status in _MEANINGS:
        error, code, message = _MEANINGS[status]
        return error(code, message or said)
    if 400 <= status < 500:
        return ModelError("invalid_prompt", _refusal(complaint.param))
    return Unavailable("server_error", said) if status >= 500 else ModelError("server_error", said)


def _refusal(param: str) -> str:
    name = param.rpartition(".")[2]
    if name in _PARAMETERS:
        return f"The model server refused '{name}'."
    return "The model server refused the request's parameters, tools or messages."


def _complaint(answer: Any) -> _Complaint:
    """Read an error in any of the forms that servers give it."""
    error = answer.get("error", answer) if isinstance(answer, dict) else answer
    if isinstance(error, dict):
        codes = {str(error.get("code")), str(error.get("type"))}
        text = error.get("message") or error.get("detail")
        return _Complaint(codes, _words(text), str(error.get("param") or ""))
    return _Complaint(set(), _words(error), "")


def _words(text: Any) -> str:
    return str(text or "")[:_LONGEST].lower()


def _parsed(content: bytes) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None
