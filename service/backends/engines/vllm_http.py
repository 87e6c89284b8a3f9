"""vLLM's HTTP for token ids: its own route, or plain completions where that one is closed."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from service.backends import Capabilities, meaning
from service.backends.engines import Ended, Event, Model, Request, Sampled
from service.backends.engines.files import read_from
from service.backends.engines.outcomes import ended_by_length, error_of_http, failed, late
from service.backends.engines.routes import Completions, Generate, Route
from service.backends.http import Answer, Deadlines, HttpClient
from service.backends.sse import Events
from service.backends.values import count_in, ids_in, text_in
from service.errors import ModelError, Unavailable
from service.rendering import Files
from service.rendering.encodings import Decimal, Encoding
from service.rendering.tokenizer import LocalTokenizer

_CHECK = 2.0  # seconds
_DONE = b"[DONE]"


class VllmHttp:
    """An engine behind vLLM's HTTP. It is told to stop by closing its socket."""

    kind = "vllm"
    encoding: Encoding = Decimal()
    capabilities = Capabilities(tokens_in="completion", tokens_out=True, parses=False, hint="salt")

    def __init__(
        self,
        url: str,
        tokenizer: Path,
        api_key: str | None = None,
        deadlines: Deadlines | None = None,
    ) -> None:
        """`tokenizer` is a directory: HTTP hands no tokenizer out."""
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._deadlines = deadlines or Deadlines()
        # vLLM answers before it computes the prompt, so that the first read waits for that
        patient = replace(self._deadlines, read=self._deadlines.answer)
        self._http = HttpClient(url, headers, patient)
        self._tokenizer = tokenizer
        self._route: Route
        self._name = ""  # of the model

    async def model(self) -> Model:
        """Ask what the engine has loaded, and which route is open. Raises `ModelError`."""
        status, _ = await self._ask("POST", Generate.path, [b"{}"])
        self._route = Completions() if status in {404, 405} else Generate()
        status, body = await self._ask("GET", "/v1/models", [])
        if status != 200:
            raise error_of_http(status)
        try:
            told = orjson.loads(body)["data"][0]
            self._name = text_in(told["id"])
            return Model(name=self._name, context=int(told["max_model_len"]))
        except (ValueError, LookupError, TypeError) as error:
            raise ModelError("server_error", "This is no vLLM server.") from error

    async def files(self) -> Files:
        """Read the tokenizer's directory. Raises `ModelError` if it is another model's."""
        files = await asyncio.to_thread(read_from, self._tokenizer)
        tokenizer = await asyncio.to_thread(LocalTokenizer.of, files)
        (ids,) = await tokenizer.encode([[meaning.WORDS]])
        body = [meaning.question(self._name, ids)]
        if meaning.differs(*await self._ask("POST", meaning.PATH, body)):
            raise ModelError(
                "server_error", "The tokenizer's directory is that of another model than vLLM has."
            )
        return files

    async def check(self) -> None:
        """Ask whether it is well. Raises `ModelError`."""
        try:
            async with asyncio.timeout(_CHECK):
                status, _ = await self._ask("GET", "/health", [])
        except TimeoutError as error:
            raise late() from error
        if status != 200:
            raise error_of_http(status)

    async def stop(self) -> None:
        """Let go of the connections."""
        self._http.close()

    async def sample(self, request: Request) -> AsyncGenerator[list[Event], None]:
        """Sample. Leaving before the end closes the socket. Raises `ModelError`."""
        route = self._route
        prompt = self.encoding.join(part.data for part in request.prompt)
        rest = orjson.dumps(route.body(request))[1:]
        body = [f'{{"{route.ids}":['.encode(), prompt, b"],", rest]
        deadline = self._deadlines.answer
        async with self._http.exchange("POST", route.path, body, deadline) as answer:
            if answer.status != 200:
                raise error_of_http(answer.status)
            chunks = _Chunks(answer, route)
            while events := await chunks.read(deadline):
                yield events
                if isinstance(events[-1], Ended):
                    return
                deadline = self._deadlines.read
        raise Unavailable("server_error", "The model server broke off.")

    async def _ask(self, method: str, path: str, body: Sequence[bytes]) -> tuple[int, bytes]:
        async with self._http.exchange(method, path, body, self._deadlines.read) as answer:
            return answer.status, await answer.all()


class _Chunks:
    """What an engine streams."""

    def __init__(self, answer: Answer, route: Route) -> None:
        self._answer = answer
        self._route = route
        self._events = Events()
        self._by_length: bool | None = None
        self._cached_tokens = 0

    async def read(self, deadline: float) -> list[Event]:
        """Return all that one read yields, nothing after the end. Raises `ModelError`."""
        while piece := await self._piece(deadline):
            told = [event for data in self._events.feed(piece) for event in self._read(data)]
            if told:
                return told
        return []

    async def _piece(self, deadline: float) -> bytes:
        try:
            async with asyncio.timeout(deadline):
                return await self._answer.read()
        except TimeoutError as error:
            raise late() from error

    def _read(self, data: bytes) -> list[Event]:
        """Read one event. What was cached is told behind why the answer ended."""
        if data == _DONE:
            ended = self._by_length is not None
            return [Ended(bool(self._by_length), self._cached_tokens)] if ended else []
        told = _object(data)
        try:
            self._count(told.get("usage") or {})
            return [event for choice in told["choices"] for event in self._sampled(choice)]
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise failed() from error

    def _count(self, usage: Mapping[str, Any]) -> None:
        details = usage.get("prompt_tokens_details") or {}
        self._cached_tokens = count_in(details.get("cached_tokens") or self._cached_tokens)

    def _sampled(self, choice: Mapping[str, Any]) -> Iterator[Event]:
        if choice["finish_reason"] is not None:
            self._by_length = ended_by_length(text_in(choice["finish_reason"]))
        if ids := ids_in(choice["token_ids"]):
            yield Sampled(ids, self._route.scores(choice.get("logprobs") or {}))


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        told = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ModelError("server_error", "The model server's answer is no JSON.") from error
    if not isinstance(told, dict) or "error" in told:
        raise failed()
    return told
