"""What can go wrong on purpose.

    Exception
    ├── Refusal       a request is refused; the client is told and the connection lives on
    ├── ModelError    a model server failed; the turn ends as response.failed
    │   └── Unavailable   before it said anything, another one may be asked
    └── SessionError  the connection ends; `transports.status` says it in each transport's words

Anything else that escapes is a defect.
"""

import enum
import json
from collections.abc import Mapping

from turnwire.json_codec import InvalidJson
from turnwire.v1 import events_pb2


class Refusal(Exception):
    """A request is refused. Becomes one `error` event (docs/protocol.md, "Errors")."""

    status = 400
    type = "invalid_request_error"
    headers: Mapping[str, str] = {}
    """What HTTP would say in headers."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param

    @classmethod
    def of_invalid(cls, invalid: InvalidJson) -> "Refusal":
        """Turn the codec's complaint about a frame into a refusal."""
        return cls(invalid.code, str(invalid), invalid.param)

    @classmethod
    def of(cls, event: events_pb2.ErrorEvent) -> "Refusal":
        """Return the refusal that an event tells of."""
        error = event.error
        param = error.param if error.HasField("param") else None
        refusal = cls(error.code, error.message, param)
        refusal.status, refusal.type = event.status, error.type
        refusal.headers = dict(event.headers)
        return refusal

    def event(self) -> events_pb2.ServerEvent:
        """Say it as the protocol does.

        `status` is always set: some clients ignore errors without it. The headers stand in both
        places that clients look in.
        """
        detail = events_pb2.ErrorDetail(
            type=self.type,
            code=self.code,
            message=self.message,
            param=self.param,
            headers=self.headers,
        )
        event = events_pb2.ErrorEvent(status=self.status, error=detail, headers=self.headers)
        return events_pb2.ServerEvent(error=event)

    def body(self) -> bytes:
        """Say it as the JSON body of an HTTP answer."""
        error = {
            "type": self.type,
            "code": self.code,
            "message": self.message,
            "param": self.param,
        }
        return json.dumps({"error": error}).encode()


class Unauthenticated(Refusal):
    """No key, or one that is not known. Says the same for both."""

    status = 401
    headers: Mapping[str, str] = {"www-authenticate": "Bearer"}

    def __init__(
        self, message: str = "A valid API key is required: Authorization: Bearer <key>."
    ) -> None:
        super().__init__("invalid_api_key", message)


class Forbidden(Refusal):
    """The caller may not do this, whoever it is."""

    status = 403


class NotFound(Refusal):
    """What was asked for does not exist, or is not the caller's. The two are indistinguishable."""

    status = 404


class Conflict(Refusal):
    """Something else is changing what was asked for. It may be asked for again when that has ended."""

    status = 409


class RateLimited(Refusal):
    """The client asks for more than it may have at once."""

    status = 429
    headers: Mapping[str, str] = {"retry-after": "1"}

    def __init__(self, message: str) -> None:
        super().__init__("rate_limit_exceeded", message)


class Failed(Refusal):
    """A defect of this server, which the client cannot do anything about."""

    status = 500
    type = "server_error"

    def __init__(self) -> None:
        super().__init__("server_error", "The server failed to process the request. Try again.")


class ModelFailed(Refusal):
    """A model server failed at what no response would tell of."""

    status = 502
    type = "server_error"

    def __init__(self, error: "ModelError") -> None:
        super().__init__(error.code, error.message)
        if error.code in _CALLERS_FAULT:
            self.status, self.type = 400, Refusal.type


class Overloaded(Refusal):
    """A limit of this server is reached; later it may work."""

    status = 503
    type = "server_error"
    headers: Mapping[str, str] = {"retry-after": "5"}


_CALLERS_FAULT = {"invalid_prompt", "context_length_exceeded"}
"""Codes of `ModelError` that the request is to blame for."""


class ModelError(Exception):
    """A model server failed. The turn ends as `response.failed` with this code and message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Unavailable(ModelError):
    """A model server cannot be reached, is too busy, or broke off: another one may do better."""


class Ending(enum.Enum):
    """Why a connection ends. `transports.status` has a row for each."""

    GONE = "gone"  # the client left: nobody is told
    TOO_LARGE = "message_too_large"
    INVALID_FRAME = "invalid_frame"
    POLICY = "policy_violation"
    SLOW_READER = "slow_reader"
    REVOKED = "credential_revoked"
    IDLE = "idle_timeout"
    AGE = "connection_age"
    DRAIN = "draining"
    INTERNAL = "internal_error"


class SessionError(Exception):
    """The connection ends. `message` tells the client why and what to do about it."""

    def __init__(self, ending: Ending, message: str) -> None:
        super().__init__(message)
        self.ending = ending
        self.message = message
