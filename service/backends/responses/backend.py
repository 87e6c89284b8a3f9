"""An upstream that speaks the Responses API, as a model server.

Where the upstream keeps a conversation it is sent what is new and the id of what that continues; where
it does not, or has lost it, the whole, from fragments that were made when it was new.
"""

import dataclasses
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from types import MappingProxyType
from typing import TypeAlias

from service.backends import Capabilities, Finished, Produced, Prompt
from service.backends.http import Deadlines, HttpClient
from service.backends.responses.catalog import Catalog
from service.backends.responses.errors import Forgotten, broke_off
from service.backends.responses.fragments import Dialect, Told
from service.backends.responses.lines import Line, Lines, Owner
from service.backends.responses.over_http import HttpLines
from service.backends.responses.over_websocket import WebSocketLines
from service.backends.responses.reader import Reader
from service.backends.responses.request import http_body, may_store, request_of, websocket_message
from service.backends.responses.terms import Terms
from service.conversation import Renderings
from turnwire.v1 import items_pb2, responses_pb2

_USUAL = Terms()
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})

Write: TypeAlias = Callable[
    [responses_pb2.CreateResponse, Iterable[items_pb2.Tool], Iterable[bytes]], Sequence[bytes]
]
"""Writes a request with its tools and its items, in pieces."""


class Responses:
    """One upstream."""

    kind = "responses"

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        models: Sequence[str] = (),
        headers: Mapping[str, str] = _NO_HEADERS,
        terms: Terms = _USUAL,
        deadlines: Deadlines | None = None,
    ) -> None:
        """`url` may end with `/v1` or not. Without `models` the upstream is asked for them.

        `headers` go with every request, and with the opening of every WebSocket.
        """
        self.models = tuple(models)
        self._url = url.rstrip("/").removesuffix("/v1")
        self._terms = terms
        headers = {**({"Authorization": f"Bearer {api_key}"} if api_key else {}), **headers}
        deadlines = deadlines or Deadlines()
        self._http = HttpClient(self._url, headers, deadlines)
        self._catalog = Catalog(self._http)
        self._lines, self._write = _transport(self._url, headers, terms, deadlines)

    @property
    def capabilities(self) -> Capabilities:
        """What it can do follows from its terms."""
        if self._terms.state != "none":
            return Capabilities(hint="state")
        return Capabilities(hint="salt" if self._terms.salt == "tenant" else "none")

    def dialect(self, model: str) -> Dialect:
        """Return in which dialect a model's conversations are kept for this upstream."""
        return Dialect(self._url, model)

    async def start(self) -> None:
        """Find out which models there are, unless that is known."""
        if self.models:
            await self._catalog.check()
        else:
            self.models = tuple(await self._catalog.models())

    async def stop(self) -> None:
        """Let go of the connections."""
        self._http.close()
        await self._lines.close()

    async def check(self) -> None:
        """Ask for its models."""
        await self._catalog.check()

    async def prepare(self, prompt: Prompt) -> Renderings:
        """Render; over a WebSocket the upstream warms up too, and can be continued from there."""
        told = Told.of(prompt, self.dialect(prompt.model))
        if self._terms.transport == "http":
            return told.rendered
        request = request_of(prompt, self._terms)
        request.generate = False
        rendered: Renderings = {}
        async with aclosing(self._answer(told, request)) as batches:
            async for batch in batches:
                rendered = batch[-1].rendered if isinstance(batch[-1], Finished) else rendered
        return rendered

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        """Ask the upstream for what is new; closing lets go of its answer, which stops it."""
        request = request_of(prompt, self._terms)
        async with aclosing(
            self._answer(Told.of(prompt, self.dialect(prompt.model)), request)
        ) as batches:
            async for batch in batches:
                yield batch

    async def _answer(
        self, told: Told, request: responses_pb2.CreateResponse
    ) -> AsyncGenerator[Sequence[Produced], None]:
        """Ask; where the upstream turns out to have lost the conversation, tell it once more, whole."""
        began = False
        continued = told.continued if self._terms.state != "none" else None
        try:
            async with aclosing(self._attempt(told, request, continued)) as batches:
                async for batch in batches:
                    began = True
                    yield batch
        except Forgotten:
            if began:
                raise
        else:
            return
        async with aclosing(self._attempt(told, request, None)) as batches:
            async for batch in batches:
                yield batch

    async def _attempt(
        self, told: Told, request: responses_pb2.CreateResponse, continued: str | None
    ) -> AsyncGenerator[Sequence[Produced], None]:
        reader = Reader()
        held = continued if self._terms.state == "connection" else None
        async with self._lines.lease(self._owner(told.prompt), held) as line:
            await line.send(self._body(told, request, continued if line.held == held else None))
            while not reader.over:
                if not (events := await line.read()):
                    raise broke_off()
                batch = reader.read(events)
                if reader.over and not reader.failed:
                    batch.append(self._finished(reader, told, line))
                if batch:
                    yield batch
        if reader.failed:
            raise reader.failed

    def _body(
        self, told: Told, request: responses_pb2.CreateResponse, continued: str | None
    ) -> Sequence[bytes]:
        if continued is None:
            request.settings.ClearField("previous_response_id")
            return self._write(request, told.prompt.tools, told.whole())
        request.settings.previous_response_id = continued
        return self._write(request, told.prompt.tools, [told.new])

    def _finished(self, reader: Reader, told: Told, line: Line) -> Finished:
        """Sum up, and let the line be used again."""
        identity, state = reader.response_id, self._terms.state
        line.finish(identity if state == "connection" else None)
        keeps = state == "connection" or may_store(told.prompt, self._terms)
        return reader.finished(told, identity if keeps else None)

    def _owner(self, prompt: Prompt) -> Owner:
        """Return whose line a turn may use: tenants share none, whatever the upstream holds there."""
        held = self._terms.state == "connection"
        return Owner(prompt.tenant, prompt.conversation if held else "")


def _transport(
    url: str, headers: Mapping[str, str], terms: Terms, deadlines: Deadlines
) -> tuple[Lines, Write]:
    if terms.transport == "websocket":
        address = f"ws{url.removeprefix('http')}/v1/responses"
        return WebSocketLines(address, headers, terms, deadlines), websocket_message
    # A model may think for long without a word, in the middle of an answer as at its beginning.
    patient = dataclasses.replace(deadlines, read=deadlines.answer)
    return HttpLines(HttpClient(url, headers, patient), deadlines.answer), http_body
