"""What a WebSocket is asked before it begins, and how it is turned away: in plain HTTP.

A web page connects with `new WebSocket(url, ["turnwire", "turnwire.ticket.<ticket>"])`: a browser
lets it set no other header. Pages are for operators to allow, by origin; their tickets are never
said back.
"""

import email.utils
import http
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response

from service.engine import Engine
from service.errors import Forbidden, NotFound, Overloaded, Refusal, Unauthenticated
from service.keys import Anonymous, Keys
from service.limits import Limits
from service.tickets import Tickets
from transports.keepalive import Wheel

PATHS: Final = ("/v1/responses", "/responses")
SUBPROTOCOL: Final = "turnwire"
TICKET_PREFIX: Final = "turnwire.ticket."
_REJECTIONS: Final[dict[type[Refusal], str]] = {Unauthenticated: "auth", Forbidden: "origin"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the connections of one server share."""

    engine: Engine
    keys: Keys
    limits: Limits
    wheel: Wheel
    tickets: Tickets = field(default_factory=Tickets)

    def admit(self, request: Request) -> str:
        """Return the tenant that a handshake comes from. Raises `Refusal`."""
        if request.path.partition("?")[0] not in PATHS:
            raise NotFound("not_found", f"Nothing is here. Connect to {PATHS[0]}.")
        headers = request.headers
        self.screen(headers.get_all("Origin"), headers.get_all("Host"))
        return self._tenant(headers)

    def screen(self, origins: Sequence[str], hosts: Sequence[str]) -> None:
        """Turn away pages that nobody allowed, by a request's Origin and Host. Raises `Forbidden`.

        Without keys there is nothing that a page would have to know, so Host is looked at too: a
        page whose own name was made to lead here needs no Origin for its GET requests.
        """
        if not set(origins) <= set(self.limits.allowed_origins):
            raise _foreign_page()
        if isinstance(self.keys, Anonymous) and not self._is_ours(hosts):
            raise _foreign_name()

    def count(self, refusal: Refusal) -> None:
        """Count who was turned away; the engine itself counts whom it has no room for."""
        if not isinstance(refusal, Overloaded):
            self.engine.rejected("websocket", _REJECTIONS.get(type(refusal), "invalid"))

    def _tenant(self, headers: Headers) -> str:
        """Take one key, or one ticket from a page, or neither; never two of them."""
        offers = _offers(headers)
        tickets = [offer for offer in offers if offer.startswith(TICKET_PREFIX)]
        from_page = "Origin" in headers and SUBPROTOCOL in offers
        match headers.get_all("Authorization"), tickets:
            case [], []:
                return self.keys.tenant_of(None)
            case [authorization], []:
                return self.keys.tenant_of(authorization)
            case [], [ticket] if from_page:
                return self.tickets.redeem(ticket.removeprefix(TICKET_PREFIX))
        raise Unauthenticated

    def _is_ours(self, hosts: Sequence[str]) -> bool:
        if len(hosts) != 1:
            return False
        name = _name_in(hosts[0])
        return _is_loopback(name) or name in map(str.lower, self.limits.allowed_hosts)


def agree(request: Request, response: Response) -> None:
    """Agree on the subprotocol that a page offers: a browser wants one of its offers answered."""
    if SUBPROTOCOL in _offers(request.headers):
        response.headers["Sec-WebSocket-Protocol"] = SUBPROTOCOL


def plain_http(refusal: Refusal) -> Response:
    """Say a refusal in plain HTTP."""
    body = refusal.body()
    headers = Headers(
        {
            "Date": email.utils.formatdate(usegmt=True),
            "Connection": "close",
            "Content-Length": str(len(body)),
            **headers_of(refusal),
        }
    )
    return Response(refusal.status, http.HTTPStatus(refusal.status).phrase, headers, body)


def headers_of(refusal: Refusal) -> dict[str, str]:
    """Return what HTTP says about a refusal beside its body."""
    return {"Content-Type": "application/json", **refusal.headers}


def invalid_handshake() -> Refusal:
    """Refuse what is no handshake."""
    return Refusal("invalid_handshake", "This is not a WebSocket handshake (RFC 6455, version 13).")


def _offers(headers: Headers) -> list[str]:
    """Return the subprotocols that a client offers."""
    try:
        values = headers.get_all("Sec-WebSocket-Protocol")
        return [offer for value in values for offer in parse_subprotocol(value)]
    except InvalidHeader:
        raise invalid_handshake() from None


def _name_in(host: str) -> str:
    """Return the name in a Host header, without its port; of what is none, nothing."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _foreign_page() -> Forbidden:
    return Forbidden(
        "origin_not_allowed",
        "This server does not accept connections from web pages of this origin. "
        "Its operator can allow the origin by name.",
    )


def _foreign_name() -> Forbidden:
    return Forbidden(
        "host_not_allowed",
        "Without API keys this server answers only when it is called localhost, 127.0.0.1 or [::1]. "
        "Its operator can allow another name, or set up keys.",
    )
