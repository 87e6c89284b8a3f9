"""What a WebSocket is asked before it begins, and how it is turned away: in plain HTTP.

A web page connects with `new WebSocket(url, ["turnwire", "turnwire.ticket.<ticket>"])`: a browser
lets it set no other header. Pages are for operators to allow, by origin; their tickets are never
said back.
"""

from typing import Final

from websockets.datastructures import Headers
from websockets.exceptions import InvalidHeader
from websockets.headers import parse_subprotocol
from websockets.http11 import Request, Response

from service.errors import NotFound, Refusal, Unauthenticated
from service.identity import Credentials, Identity
from transports.endpoint import PATHS, Endpoint
from transports.tls import Shown

SUBPROTOCOL: Final = "turnwire"
TICKET_PREFIX: Final = "turnwire.ticket."


def admit(endpoint: Endpoint, request: Request, shown: Shown) -> Identity:
    """Return whom a handshake comes from, and what TLS knows of. Raises `Refusal`."""
    if request.path.partition("?")[0] not in PATHS:
        raise NotFound("not_found", f"Nothing is here. Connect to {PATHS[0]}.")
    headers = request.headers
    endpoint.screen(headers.get_all("Origin"), headers.get_all("Host"))
    caller = _caller(endpoint, headers, shown)
    if not endpoint.identities.holds(caller):  # a ticket's maker may have been turned out since
        raise Unauthenticated
    return caller


def agree(request: Request, response: Response) -> None:
    """Agree on the subprotocol that a page offers: a browser wants one of its offers answered."""
    if SUBPROTOCOL in _offers(request.headers):
        response.headers["Sec-WebSocket-Protocol"] = SUBPROTOCOL


def invalid_handshake() -> Refusal:
    """Refuse what is no handshake."""
    return Refusal("invalid_handshake", "This is not a WebSocket handshake (RFC 6455, version 13).")


def _caller(endpoint: Endpoint, headers: Headers, shown: Shown) -> Identity:
    """Take one key, or one ticket from a page, or neither; never two of them."""
    offers = _offers(headers)
    tickets = [offer for offer in offers if offer.startswith(TICKET_PREFIX)]
    from_page = "Origin" in headers and SUBPROTOCOL in offers
    match headers.get_all("Authorization"), tickets:
        case [], []:
            return endpoint.identities.identify(Credentials(None, *shown))
        case [authorization], []:
            return endpoint.identities.identify(Credentials(authorization, *shown))
        case [], [ticket] if from_page:
            return endpoint.tickets.redeem(ticket.removeprefix(TICKET_PREFIX))
    raise Unauthenticated


def _offers(headers: Headers) -> list[str]:
    """Return the subprotocols that a client offers."""
    try:
        values = headers.get_all("Sec-WebSocket-Protocol")
        return [offer for value in values for offer in parse_subprotocol(value)]
    except InvalidHeader:
        raise invalid_handshake() from None
