"""The routes of a llama.cpp server that are used, and what they answer."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from service.backends.http import Answer, Deadlines, HttpClient
from service.conversation import Rendered
from service.errors import ModelError

Piece = int | str
"""A token by its id, or text that cannot become a special token whatever it says."""

_BREAK = -1  # no token has this id, and /tokenize passes ids through


_OF_THE_END = [
    "stop",
    "stop_type",
    "stopping_word",
    "tokens_evaluated",
    "tokens_predicted",
    "timings",
]
"""What the server is to say at the end; it would repeat the whole prompt."""


_OF_THE_MODEL = ["n_vocab", "n_embd", "n_params", "size"]
"""What tells models of one name apart, and stays the same however the server is set up."""


class Sampled(NamedTuple):
    """More of a completion."""

    text: str
    pieces: Sequence[Piece]
    """The sampled ids, without those that say nothing (ends of turn, stop words). Text in place of
    ids that the server kept to itself: all but the last of a character that takes several."""


class Stopped(NamedTuple):
    """The end of a completion."""

    by_length: bool
    word: str
    """The stop word that ended it, which is not part of what was sampled."""
    input_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Properties:
    """What a server says about itself."""

    model: str
    context: int
    """Tokens that fit into one slot."""
    slots: int
    fingerprint: str
    """Tells models of the same name apart."""


class Completion:
    """A completion on its way."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._rest = b""
        self._shown = 0
        self._withheld: list[int] = []

    async def read(self) -> list[Sampled | Stopped]:
        """Return all that one read yields, nothing after the end. Raises `ModelError`."""
        while piece := await self._answer.read():
            *lines, self._rest = (self._rest + piece).split(b"\n")
            if events := [self._event(line) for line in lines if _is_data(line)]:
                return events
        return []

    def _event(self, line: bytes) -> Sampled | Stopped:
        event = _decoded(line.partition(b":")[2])
        try:
            return _stopped(event) if event["stop"] else self._more(event)
        except (LookupError, TypeError) as error:
            raise ModelError(
                "server_error", "The model server failed while it was generating."
            ) from error

    def _more(self, event: dict[str, Any]) -> Sampled:
        text, ids = event["content"], self._withheld + event["tokens"]
        if not text:  # an end of turn, or what may become a stop word
            self._withheld = ids
            return Sampled(text, [])
        before, self._shown = self._shown, event["tokens_predicted"]
        self._withheld = []
        return Sampled(text, ids if len(ids) == self._shown - before else [text])


class LlamaServer:
    """A llama.cpp server."""

    def __init__(self, http: HttpClient, deadlines: Deadlines) -> None:
        self._http = http
        self._deadlines = deadlines

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    async def properties(self) -> Properties:
        """Ask what the server is. Raises `ModelError`."""
        props = await self._json("GET", "/props")
        models = await self._json("GET", "/v1/models")
        try:
            return _properties(props, models["data"][0])
        except (LookupError, TypeError) as error:
            raise ModelError("server_error", "This is no llama.cpp server.") from error

    async def special_token(self, text: str) -> int:
        """Return the id of a special token. Raises `ModelError` if the model has none such."""
        ids = await self._tokenize({"content": text})
        if len(ids) != 1:
            raise ModelError(
                "server_error", f"The model has no token {text}: it does not read ChatML."
            )
        return int(ids[0])

    async def opening_tokens(self) -> list[int]:
        """Return what the model expects in front of every prompt."""
        body = {"content": "", "add_special": True}
        return await self._tokenize(body)

    async def render(self, fragments: Sequence[Sequence[Piece]]) -> list[Rendered]:
        """Render fragments, by one request at most. Raises `ModelError`."""
        if not any(isinstance(piece, str) for fragment in fragments for piece in fragment):
            return [rendered(fragment) for fragment in fragments]
        content = [piece for fragment in fragments for piece in (*fragment, _BREAK)]
        body = {"content": content, "add_special": False, "parse_special": False}
        return _fragments(await self._tokenize(body))

    @asynccontextmanager
    async def complete(
        self, prompt: Iterable[Rendered], options: dict[str, Any]
    ) -> AsyncGenerator[Completion]:
        """Complete a prompt. Leaving early stops the server's work. Raises `ModelError`."""
        ids = b",".join(fragment.data for fragment in prompt if fragment.tokens)
        body = [
            b'{"prompt":[',
            ids,
            b"],",
            orjson.dumps({**options, "response_fields": _OF_THE_END})[1:],
        ]
        async with self._http.exchange(
            "POST", "/completion", body, self._deadlines.answer
        ) as answer:
            if answer.status != 200:
                raise _error(answer.status, await answer.all())
            yield Completion(answer)

    async def _tokenize(self, body: dict[str, Any]) -> list[int]:
        ids = (await self._json("POST", "/tokenize", body)).get("tokens")
        if not isinstance(ids, list):
            raise ModelError("server_error", "The model server does not tokenise.")
        return ids

    async def _json(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        request = [] if body is None else [orjson.dumps(body)]
        async with self._http.exchange(method, path, request, self._deadlines.read) as answer:
            content = await answer.all()
        if answer.status != 200:
            raise _error(answer.status, content)
        return _decoded(content)


def rendered(ids: Sequence[Piece]) -> Rendered:
    """Return ids as they stand in the body of a request."""
    return Rendered(",".join(map(str, ids)).encode(), len(ids))


def _properties(props: dict[str, Any], model: dict[str, Any]) -> Properties:
    meta = model.get("meta") or {}
    return Properties(
        model=model["id"],
        context=props["default_generation_settings"]["n_ctx"],
        slots=props["total_slots"],
        fingerprint=f"{model['id']} {[meta.get(name) for name in _OF_THE_MODEL]}",
    )


def _fragments(ids: Iterable[int]) -> list[Rendered]:
    fragments: list[Rendered] = []
    fragment: list[int] = []
    for token in ids:
        if token == _BREAK:
            fragments.append(rendered(fragment))
            fragment = []
        else:
            fragment.append(token)
    return fragments


def _is_data(line: bytes) -> bool:
    return line.startswith((b"data:", b"error:"))


def _decoded(content: bytes) -> dict[str, Any]:
    try:
        decoded = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise ModelError("server_error", "The model server's answer is no JSON.") from error
    if not isinstance(decoded, dict):
        raise ModelError("server_error", "The model server's answer is no JSON object.")
    return decoded


def _stopped(event: dict[str, Any]) -> Stopped:
    return Stopped(
        by_length=event["stop_type"] == "limit",
        word=event["stopping_word"],
        input_tokens=event["tokens_evaluated"],
        cached_tokens=event["timings"]["cache_n"],
        output_tokens=event["tokens_predicted"],
    )


def _error(status: int, content: bytes) -> ModelError:
    error = _decoded(content).get("error") if content.startswith(b"{") else None
    kind = error.get("type") if isinstance(error, dict) else None
    if kind == "exceed_context_size_error":
        return ModelError(
            "context_length_exceeded", "The conversation does not fit the model's context."
        )
    if status == 400:
        return ModelError(
            "invalid_prompt", "The model server refused the request's parameters or schema."
        )
    if status in {401, 403}:
        return ModelError("server_error", "The model server refused its API key.")
    return ModelError("server_error", f"The model server answered with HTTP status {status}.")
