"""Tickets for web pages over HTTP: `POST /v1/responses/tickets`, which a page's own backend calls.

Off unless the operator has allowed an origin. Whatever the request's body says has no meaning yet,
so it is not read.
"""

import time
from typing import Final

from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from service.errors import Forbidden
from service.tickets import LIFETIME
from transports.endpoint import PATHS, Endpoint
from transports.http_resource import Call, Resource

_NOT_TO_BE_KEPT: Final = {"Cache-Control": "no-store"}


def ticket_routes(endpoint: Endpoint) -> list[Route]:
    """Return the routes that make tickets for this endpoint's connections."""

    async def post(call: Call) -> ASGIApp:
        if not call.limits.allowed_origins:
            raise _no_pages()
        ticket = endpoint.tickets.issue(call.caller)
        expires_at = int(time.time()) + LIFETIME
        body = {"object": "ticket", "ticket": ticket, "expires_at": expires_at}
        return JSONResponse(body, headers=_NOT_TO_BE_KEPT)

    return [Route(f"{path}/tickets", Resource(endpoint, {"POST": post})) for path in PATHS]


def _no_pages() -> Forbidden:
    return Forbidden(
        "browsers_not_allowed",
        "This server does not accept connections from web pages, so it makes no tickets. "
        "Its operator can allow origins by name.",
    )
