"""How engines say that they have stopped, and what went wrong: each in one table."""

import grpc

from service.errors import ModelError, Unavailable

_BY_LENGTH = {"stop": False, "stop_word": False, "length": True}


def ended_by_length(reason: str | None) -> bool:
    """Tell whether an answer was cut off. Raises `ModelError` if it is none."""
    if reason == "abort":
        raise Unavailable("server_error", "The model server gave the answer up.")
    if reason not in _BY_LENGTH:
        raise failed()
    return _BY_LENGTH[reason]


def failed() -> ModelError:
    """Return what is said of an answer that came to nothing."""
    return ModelError("server_error", "The model server failed while it was generating.")


def late() -> ModelError:
    """Return what is said of an engine that takes too long."""
    return error_of(grpc.StatusCode.DEADLINE_EXCEEDED)


_OUT_OF_REACH = "The model server cannot be reached, or broke off."
_REFUSED_KEY = "The model server refused its API key."
_REFUSED = "The model server refused the request's parameters or schema."

_STATUS: dict[grpc.StatusCode, tuple[type[ModelError], str, str]] = {
    grpc.StatusCode.UNAVAILABLE: (Unavailable, "server_error", _OUT_OF_REACH),
    grpc.StatusCode.CANCELLED: (Unavailable, "server_error", _OUT_OF_REACH),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (
        Unavailable,
        "rate_limit_exceeded",
        "The model is busy; try again.",
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: (
        ModelError,
        "server_error",
        "The model server did not answer in time.",
    ),
    grpc.StatusCode.INVALID_ARGUMENT: (ModelError, "invalid_prompt", _REFUSED),
    grpc.StatusCode.FAILED_PRECONDITION: (ModelError, "invalid_prompt", _REFUSED),
    grpc.StatusCode.NOT_FOUND: (
        ModelError,
        "model_not_found",
        "The model server has no such model.",
    ),
    grpc.StatusCode.UNAUTHENTICATED: (ModelError, "server_error", _REFUSED_KEY),
    grpc.StatusCode.PERMISSION_DENIED: (ModelError, "server_error", _REFUSED_KEY),
    grpc.StatusCode.UNIMPLEMENTED: (
        ModelError,
        "server_error",
        "The model server does not speak this engine's protocol.",
    ),
}
"""Constraints that an engine cannot keep are a failed precondition: the request is to blame."""


def error_of(status: grpc.StatusCode) -> ModelError:
    """Return what a status means. What an engine says about it may repeat what it was asked."""
    kind, code, message = _STATUS.get(
        status, (ModelError, "server_error", f"The model server failed with {status.name}.")
    )
    return kind(code, message)


_HTTP = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    502: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.UNAVAILABLE,
}


def error_of_http(status: int) -> ModelError:
    """Return what a status of HTTP means: the same as its counterpart in gRPC."""
    if status in _HTTP:
        return error_of(_HTTP[status])
    return ModelError("server_error", f"The model server answered with HTTP status {status}.")
