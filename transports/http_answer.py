"""Whole answers of the HTTP face: a message, or why there is none."""

from typing import Final

from google.protobuf.message import Message
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.errors import Refusal
from transports.endpoint import headers_of
from transports.large_answers import LargeAnswers, encoded, is_large
from turnwire import json_codec

_PIECE: Final = 64 * 1024  # what the event loop buffers before it has to wait for the client


class Said:
    """Answers with a message; a large one is written as fast as the client reads it."""

    def __init__(self, message: Message, tenant: str, large_answers: LargeAnswers) -> None:
        self._message = message
        self._tenant = tenant
        self._large_answers = large_answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises `RateLimited` before anything is said."""
        if not is_large(self._message):
            body = json_codec.encode(self._message)
            await Response(body, media_type="application/json")(scope, receive, send)
            return
        async with self._large_answers.place(self._tenant):
            await _write(await encoded(self._message, json_codec.encode), send)


def say(refusal: Refusal) -> Response:
    """Say a refusal in HTTP."""
    return Response(refusal.body(), refusal.status, headers_of(refusal))


async def _write(body: bytes, send: Send) -> None:
    start = Response(status_code=200, media_type="application/json")
    start.headers["Content-Length"] = str(len(body))
    headers = start.raw_headers
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for at in range(0, len(body), _PIECE):
        piece, more = body[at : at + _PIECE], at + _PIECE < len(body)
        await send({"type": "http.response.body", "body": piece, "more_body": more})
