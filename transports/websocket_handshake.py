"""What a WebSocket is asked before it begins, and how it is turned away: in plain HTTP."""

import email.utils
import http
from dataclasses import dataclass
from typing import Final

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from service.engine import Engine
from service.errors import Forbidden, NotFound, Overloaded, Refusal, Unauthenticated
from service.keys import Keys
from service.limits import Limits
from transports.keepalive import Wheel

PATHS: Final = ("/v1/responses", "/responses")
_REJECTIONS: Final[dict[type[Refusal], str]] = {Unauthenticated: "auth", Forbidden: "origin"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the connections of one server share."""

    engine: Engine
    keys: Keys
    limits: Limits
    wheel: Wheel

    def admit(self, request: Request) -> str:
        """Return the tenant that a handshake comes from. Raises `Refusal`."""
        if request.path.partition("?")[0] not in PATHS:
            raise NotFound("not_found", f"Nothing is here. Connect to {PATHS[0]}.")
        if not set(request.headers.get_all("Origin")) <= set(self.limits.allowed_origins):
            raise Forbidden(
                "origin_not_allowed",
                "This server does not accept connections from web pages of this origin. "
                "Its operator can allow the origin by name.",
            )
        authorizations = request.headers.get_all("Authorization")
        if len(authorizations) > 1:
            raise Unauthenticated
        return self.keys.tenant_of(authorizations[0] if authorizations else None)

    def count(self, refusal: Refusal) -> None:
        """Count who was turned away; the engine itself counts whom it has no room for."""
        if not isinstance(refusal, Overloaded):
            self.engine.rejected("websocket", _REJECTIONS.get(type(refusal), "invalid"))


def plain_http(refusal: Refusal) -> Response:
    """Say a refusal in plain HTTP."""
    body = refusal.body()
    headers = Headers(
        {
            "Date": email.utils.formatdate(usegmt=True),
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }
    )
    if isinstance(refusal, Overloaded):
        headers["Retry-After"] = "5"
    if isinstance(refusal, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(refusal.status, http.HTTPStatus(refusal.status).phrase, headers, body)


def invalid_handshake() -> Refusal:
    """Refuse what is no handshake."""
    return Refusal("invalid_handshake", "This is not a WebSocket handshake (RFC 6455, version 13).")
