"""What upstreams say went wrong, in our own words: theirs may quote a conversation, or a key."""

from collections.abc import Mapping
from typing import Any

import orjson

from service.errors import ModelError, Unavailable

_BUSY = {
    *("rate_limit_exceeded", "rate_limit_error", "server_is_overloaded", "insufficient_quota"),
    *("usage_limit_reached", "too_many_requests", "websocket_stream_limit_reached"),
}
_FORGOTTEN = {"previous_response_not_found", "websocket_connection_limit_reached"}
_CONTINUED = ("previous_response_id", "response_id")
"""Members of a request by which nothing but what is continued is named."""
_TOO_LONG = {"context_length_exceeded", "exceed_context_size_error"}
_UNREACHABLE = {502, 503, 504}
_REQUEST = {400, 404, 413, 422}
_TO_BLAME = {"invalid_request_error", "invalid_prompt", "invalid_value"}


class Forgotten(Unavailable):
    """The upstream has lost what it held of the conversation: it can be told the whole of it."""

    def __init__(self) -> None:
        super().__init__("server_error", "The model server lost the conversation.")


def broke_off() -> ModelError:
    """Return the error of a connection that cannot be had, or ended where it should not."""
    return Unavailable("server_error", "The model server cannot be reached, or broke off.")


def senseless() -> ModelError:
    """Return the error of an upstream that does not speak the protocol."""
    return ModelError("server_error", "The model server did not answer in its protocol.")


def refusal(status: int, content: bytes) -> ModelError:
    """Return the error of an answer over HTTP."""
    try:
        body = orjson.loads(content)
    except orjson.JSONDecodeError:
        body = None
    error = body.get("error", body) if isinstance(body, dict) else None
    return failure(error if isinstance(error, dict) else {}, status)


def failure(error: Mapping[str, Any], status: int) -> ModelError:
    """Return an error that an upstream describes. `status` is HTTP's, 0 where it names none."""
    words = {str(error.get("code")), str(error.get("type"))}
    if words & _FORGOTTEN or error.get("param") in _CONTINUED:
        return Forgotten()
    if words & _TOO_LONG or _speaks_of_length(error.get("message")):
        return ModelError(
            "context_length_exceeded", "The conversation does not fit the model's context."
        )
    if "model_not_found" in words or (status == 404 and error.get("param") == "model"):
        return ModelError("model_not_found", "The model server does not have this model.")
    if status == 429 or words & _BUSY:
        return Unavailable("rate_limit_exceeded", "The model server is busy; try again.")
    return _other_failure(words, status)


def _other_failure(words: set[str], status: int) -> ModelError:
    if status in _UNREACHABLE:
        return broke_off()
    if status in {401, 403} or "invalid_api_key" in words:
        return ModelError("server_error", "The model server refused its API key.")
    if status in _REQUEST or words & _TO_BLAME:
        return ModelError("invalid_prompt", "The model server refused the request.")
    return ModelError("server_error", "The model server failed.")


def _speaks_of_length(message: object) -> bool:
    """Tell a prompt that is too long, where a server has no code for that."""
    return isinstance(message, str) and "maximum context length" in message.lower()
