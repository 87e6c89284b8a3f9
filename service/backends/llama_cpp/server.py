"""The routes of a llama.cpp server that are used, and what they answer."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from service.backends.http import Deadlines, HttpClient
from service.backends.llama_cpp.completion import Completion, ScoredCompletion
from service.backends.values import object_in
from service.conversation import Rendered
from service.errors import ModelError, Unavailable
from service.rendering import Piece

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


@dataclass(frozen=True, slots=True)
class Properties:
    """What a server says about itself."""

    model: str
    context: int
    """Tokens that fit into one slot."""
    slots: int
    fingerprint: str
    """Tells models of the same name apart."""
    template: str
    """The model's own chat template; empty if it has none."""
    ends: str
    """How the token is spelled that ends an answer."""
    begins: str
    """How the token is spelled that stands in front of everything."""


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

    async def health(self) -> None:
        """Ask whether it can answer. Raises `ModelError`."""
        await self._json("GET", "/health")

    async def save_slot(self, slot: int, name: str) -> None:
        """Write what a slot holds to a file of the server's. Raises `ModelError`."""
        await self._json("POST", f"/slots/{slot}?action=save", {"filename": name})

    async def restore_slot(self, slot: int, name: str) -> None:
        """Read a file of the server's into a slot. Raises `ModelError`."""
        await self._json("POST", f"/slots/{slot}?action=restore", {"filename": name})

    async def special(self, spellings: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts that may spell special tokens. Raises `ModelError`."""
        return await self._fragments([[spelling] for spelling in spellings], parse_special=True)

    async def opening_tokens(self) -> list[int]:
        """Return what the model expects in front of every prompt."""
        body = {"content": "", "add_special": True}
        return await self._tokenize(body)

    async def encode(self, fragments: Sequence[Sequence[Piece]]) -> list[list[int]]:
        """Tokenise fragments, by one request at most. Raises `ModelError`."""
        ids = [[piece for piece in f if isinstance(piece, int)] for f in fragments]
        if all(map(_same_length, ids, fragments)):
            return ids
        return await self._fragments(fragments, parse_special=False)

    @asynccontextmanager
    async def complete(
        self, prompt: Iterable[Rendered], options: dict[str, Any]
    ) -> AsyncGenerator[Completion]:
        """Complete a prompt. Leaving early stops the server's work. Raises `ModelError`.

        Tokens are scored if `n_probs` is among the options: the server takes 0 for not at all.
        """
        likeliest: int | None = options.get("n_probs")
        if likeliest == 0:
            options = {**options, "n_probs": 1}
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
            if likeliest is None:
                yield Completion(answer)
            else:
                yield ScoredCompletion(answer, likeliest, self._spelled)

    async def _fragments(
        self, fragments: Sequence[Sequence[Piece]], *, parse_special: bool
    ) -> list[list[int]]:
        content = [piece for fragment in fragments for piece in (*fragment, _BREAK)]
        body = {"content": content, "add_special": False, "parse_special": parse_special}
        return _split(await self._tokenize(body))

    async def _spelled(self, ids: Sequence[int]) -> list[bytes]:
        """Return the bytes of tokens. Raises `ModelError`."""
        tokens = await self._tokenize({"content": ids, "add_special": False, "with_pieces": True})
        try:
            return [_bytes(token["piece"]) for token in tokens]
        except (LookupError, TypeError, ValueError) as error:
            raise ModelError("server_error", "The model server does not spell tokens.") from error

    async def _tokenize(self, body: dict[str, Any]) -> list[Any]:
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
        return object_in(content)


def _properties(props: dict[str, Any], model: dict[str, Any]) -> Properties:
    meta = model.get("meta") or {}
    return Properties(
        model=model["id"],
        context=props["default_generation_settings"]["n_ctx"],
        slots=props["total_slots"],
        fingerprint=f"{model['id']} {[meta.get(name) for name in _OF_THE_MODEL]}",
        template=props.get("chat_template", ""),
        ends=props.get("eos_token", ""),
        begins=props.get("bos_token", ""),
    )


def _same_length(ids: Sequence[int], fragment: Sequence[Piece]) -> bool:
    return len(ids) == len(fragment)


def _split(ids: Iterable[int]) -> list[list[int]]:
    fragments: list[list[int]] = [[]]
    for token in ids:
        if token == _BREAK:
            fragments.append([])
        else:
            fragments[-1].append(token)
    return fragments[:-1]


def _bytes(piece: str | list[int]) -> bytes:
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def _error(status: int, content: bytes) -> ModelError:
    error = object_in(content).get("error") if content.startswith(b"{") else None
    kind = error.get("type") if isinstance(error, dict) else None
    if kind == "exceed_context_size_error":
        return ModelError(
            "context_length_exceeded", "The conversation does not fit the model's context."
        )
    if status == 400:
        return ModelError(
            "invalid_prompt", "The model server refused the request's parameters or schema."
        )
    if status in {429, 503}:  # it loads its model, as a rule
        return Unavailable("server_error", "The model server is not ready.")
    if status in {401, 403}:
        return ModelError("server_error", "The model server refused its API key.")
    return ModelError("server_error", f"The model server answered with HTTP status {status}.")
