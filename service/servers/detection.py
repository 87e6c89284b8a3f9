"""Which model server it is that listens somewhere, from what it says about itself.

Servers answer routes that others do not have, or say who they are in the list of their models. All are
asked at once, and what is no such answer, of whatever else may listen there, says nothing.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import orjson

from service.backends.http import Deadlines, HttpClient
from service.errors import ModelError
from service.servers import TOLD_IN_IDS, Kind, Server

_MOST = 4 * 1024 * 1024  # bytes of an answer
_DEADLINE = 5.0  # seconds, for a server that is known to be there
_NEARBY = Deadlines(connect=0.5, read=0.8)
_NEARBY_DEADLINE = 1.0
_TELLING = {200, 426}  # "upgrade required" tells of a WebSocket

LOOPBACK = "127.0.0.1"

PORTS: Mapping[Kind, int] = {
    "llama.cpp": 8080,
    "llama.cpp-chat": 8080,
    "vllm": 8000,
    "vllm-generate": 8000,
    "sglang": 30000,
    "trtllm": 8000,
    "ollama": 11434,
    "lmstudio": 1234,
    "chat": 8000,
    "responses": 8000,
}
"""Where servers listen unless they are told otherwise."""

Answers: TypeAlias = Mapping[str, dict[str, Any]]
"""What a server says, by route: JSON objects only."""


class Found(NamedTuple):
    """A model server that was found."""

    url: str
    kind: Kind
    models: Sequence[str]

    @property
    def server(self) -> Server:
        """Return it as if the operator had named it."""
        return Server(name=name_of(self.url), kind=self.kind, url=self.url)


def name_of(url: str) -> str:
    """Return how logs and metrics call a server that the operator gave no name."""
    return url.partition("://")[2].rstrip("/")


def root_of(url: str) -> str:
    """Return where all of a server's routes begin. Many an address is given with the API's own path."""
    return url.rstrip("/").removesuffix("/v1")


def usual_url(kind: str) -> str:
    """Return where a server of a kind listens on this machine, nothing if there is no such place."""
    ports = {str(known): port for known, port in PORTS.items()}
    return f"http://{LOOPBACK}:{ports[kind]}" if kind in ports else ""


async def detect(ports: Sequence[int] | None = None) -> list[Found]:
    """Look for model servers on this machine, and nowhere else; at their usual ports, if none are given."""
    looked = [_look(f"http://{LOOPBACK}:{port}") for port in ports or sorted({*PORTS.values()})]
    return [found for found in await asyncio.gather(*looked) if found]


async def identified(server: Server) -> Server:
    """Return a server with what it has to be asked for: its kind, and whose its tokenizer is.

    Raises `ModelError`.
    """
    needs_names = server.tokenizer and not server.models and server.kind in TOLD_IN_IDS
    if server.kind != "auto" and not needs_names:
        return server
    key = server.api_key.get_secret_value() if server.api_key else None
    headers = {**server.headers, **({"Authorization": f"Bearer {key}"} if key else {})}
    answers = await _asked(HttpClient(root_of(server.url), headers, server.deadlines), _DEADLINE)
    kind = kind_of(answers) if server.kind == "auto" else server.kind
    if kind is None:
        raise ModelError("server_error", "It does not answer like any known model server.")
    models = server.models or {name: name for name in models_of(answers)}
    return dataclasses.replace(server, kind=kind, models=models)


def kind_of(answers: Answers) -> Kind | None:
    """Tell servers apart by their answers; `None` is none that is known."""
    return next((kind for kind, fits in _FINGERPRINTS if fits(answers)), None)


def models_of(answers: Answers) -> Sequence[str]:
    """Return the names of a server's models."""
    names = (model.get("id") for model in _listed(answers))
    return [name for name in names if isinstance(name, str)]


async def _look(url: str) -> Found | None:
    try:
        answers = await _asked(HttpClient(url, {}, _NEARBY), _NEARBY_DEADLINE)
    except ModelError:
        return None
    kind = kind_of(answers)
    return Found(url, kind, models_of(answers)) if kind else None


async def _asked(http: HttpClient, deadline: float) -> Answers:
    """Ask everything at once. Raises `ModelError` if the list of models cannot be asked for."""
    try:
        async with asyncio.timeout(deadline):
            questions = (_answer(http, route) for route in _ROUTES)
            answers = await asyncio.gather(*questions, return_exceptions=True)
    except TimeoutError as error:
        raise ModelError("server_error", "It did not answer in time.") from error
    finally:
        http.close()
    if isinstance(answers[0], ModelError):
        raise answers[0]
    told = zip(_ROUTES, answers, strict=True)
    return {route: answer for route, answer in told if not isinstance(answer, BaseException)}


async def _answer(http: HttpClient, route: str) -> dict[str, Any]:
    """Return what a route answers, if it is a JSON object. Raises `ModelError`."""
    body = bytearray()
    async with http.exchange("GET", route, [], _DEADLINE) as answer:
        _check(answer.status)
        while answer.status in _TELLING and len(body) < _MOST and (piece := await answer.read()):
            body += piece
    try:
        said = orjson.loads(body or b"{}")
    except orjson.JSONDecodeError:
        return {}
    return said if isinstance(said, dict) else {}


def _check(status: int) -> None:
    """Raise `ModelError` for what an operator should hear rather than that a server is none that is known."""
    if status in {401, 403}:
        raise ModelError("server_error", "The model server refused its API key, or wants one.")
    if status >= 500:
        raise ModelError("server_error", f"The model server answered with HTTP status {status}.")


def _says(route: str, *members: str) -> Callable[[Answers], bool]:
    """Recognise a server by members that its answer has."""
    return lambda answers: set(members) <= answers.get(route, {}).keys()


def _owns(owner: str) -> Callable[[Answers], bool]:
    """Recognise a server by what it says of its models."""
    return lambda answers: any(model.get("owned_by") == owner for model in _listed(answers))


def _upgrades(answers: Answers) -> bool:
    """Recognise who wants to be spoken to over a WebSocket, Turnwire itself for one."""
    error = answers.get("/v1/responses", {}).get("error")
    return isinstance(error, dict) and error.get("code") == "upgrade_required"


def _listed(answers: Answers, route: str = "/v1/models") -> list[dict[str, Any]]:
    models = answers.get(route, {}).get("data")
    if not isinstance(models, list):
        return []
    return [model for model in models if isinstance(model, dict)]


_FINGERPRINTS: Sequence[tuple[Kind, Callable[[Answers], bool]]] = (
    ("llama.cpp", _says("/props", "default_generation_settings", "total_slots")),
    ("lmstudio", lambda answers: bool(_listed(answers, "/api/v0/models"))),
    ("ollama", _says("/api/version", "version")),
    ("sglang", _owns("sglang")),
    ("trtllm", _owns("tensorrt_llm")),
    ("vllm", _owns("vllm")),
    ("responses-websocket", _upgrades),
    ("chat", lambda answers: bool(_listed(answers))),
)
"""From the most telling to what anything that speaks the chat completions API answers."""

_ROUTES = ("/v1/models", "/props", "/api/v0/models", "/api/version", "/v1/responses")
