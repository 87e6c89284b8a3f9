"""A model server and a classifier that fail in all ways, each time quoting what they were asked."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

_CHAT, _MODERATIONS, _MODELS = "/v1/chat/completions", "/v1/moderations", "/v1/models"
MODEL = "quoting"


@asynccontextmanager
async def quoting() -> AsyncIterator[int]:
    """Listen for as long as the context lasts; yield the port."""
    answers = itertools.cycle(_ANSWERS)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(await _answer(reader, answers))
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _answer(reader: asyncio.StreamReader, answers: Iterator[str]) -> bytes:
    """Read a request; return the answer to it."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = int(head.lower().partition("content-length:")[2].split("\r\n")[0] or 0)
    body = (await reader.readexactly(length)).decode(errors="replace")
    path = head.split(" ")[1]
    if path == _MODELS:
        return _http(
            "200 OK", json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]})
        )
    if path in {_CHAT, _MODERATIONS}:
        return _said(next(answers), body)
    return _http("404 Not Found", body)


def _said(answer: str, body: str) -> bytes:
    quoted = json.dumps(f"cannot do {body}")[1:-1]
    word = "".join(filter(str.isalnum, body))[-60:]
    return answer.replace("{quoted}", quoted).replace("{word}", word).encode()


def _http(status: str, body: str, kind: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body.encode())}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


def _ended(status: str, body: str, kind: str = "application/json") -> str:
    """Return an answer that ends with its connection."""
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n{body}"


_EVENTS = "text/event-stream"
_ERROR = '{"error": {"message": "{quoted}", "type": "{word}", "code": "{word}", "param": "{word}"}}'
_CHUNK = (
    '{"id": "1", "object": "chat.completion.chunk", "model": "m", "created": 1, '
    '"choices": [{"index": 0, "delta": {"content": "{quoted}"}, "finish_reason": null}]}'
)
_ANSWERS = (
    _ended(
        "200 OK",
        f"data: {_CHUNK}\n\ndata: {_CHUNK.replace('null', chr(34) + 'stop' + chr(34))}\n\n"
        "data: [DONE]\n\n",
        _EVENTS,
    ),
    _ended("400 Bad Request", _ERROR),
    _ended("500 Internal Server Error", "{quoted}", "text/plain"),
    _ended("200 OK", f"data: {_CHUNK}\n\ndata: {_ERROR}\n\n", _EVENTS),
    _ended("200 OK", f"data: {_CHUNK}\n\n", _EVENTS),
    _ended("429 {word}", _ERROR),
    _ended("200 OK", "data: {quoted}\n\n", _EVENTS),
    _ended("302 Found\r\nLocation: /{word}", "{quoted}"),
    _ended("200 OK", '{"{word}": "{quoted}"}'),
    _ended("404 Not Found", _ERROR.replace("cannot", "model")),
    "{word}\r\n\r\n",
    "HTTP/1.1 200 OK\r\nX-{word}: {word}\r\nTransfer-Encoding: chunked\r\n\r\n{word}",
    "",
)
"""Whole, then refusals, failures, ends in the middle, and what is not HTTP."""
