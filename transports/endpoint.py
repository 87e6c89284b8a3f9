"""What HTTP and WebSockets share on their port: whom they let in, and how a refusal is said in HTTP."""

import email.utils
import http
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from websockets.datastructures import Headers
from websockets.http11 import Response

from service.engine import Engine
from service.errors import Forbidden, Refusal
from service.identity import Identities
from service.limits import Limits
from service.loopback import is_loopback
from service.tickets import Tickets
from transports.keepalive import Wheel
from transports.large_answers import LargeAnswers

PATHS: Final = ("/v1/responses", "/responses")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the connections of one server share."""

    engine: Engine
    identities: Identities
    limits: Limits
    wheel: Wheel
    tickets: Tickets = field(default_factory=Tickets)
    large_answers: LargeAnswers = field(default_factory=LargeAnswers)

    def screen(self, origins: Sequence[str], hosts: Sequence[str]) -> None:
        """Turn away pages that nobody allowed, by a request's Origin and Host. Raises `Forbidden`.

        Without keys there is nothing that a page would have to know, so Host is looked at too: a
        page whose own name was made to lead here needs no Origin for its GET requests.
        """
        if not set(origins) <= set(self.limits.allowed_origins):
            raise _foreign_page()
        if self.identities.anonymous and not self._is_ours(hosts):
            raise _foreign_name()

    def _is_ours(self, hosts: Sequence[str]) -> bool:
        if len(hosts) != 1:
            return False
        name = _name_in(hosts[0])
        return is_loopback(name) or name in map(str.lower, self.limits.allowed_hosts)


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


def _name_in(host: str) -> str:
    """Return the name in a Host header, without its port; of what is none, nothing."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


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
