"""The library `renderers`, of which this is all that is used: chat templates made in Python.

It is installed where it is wanted, and imported when it is.
"""

import contextlib
import importlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple, Protocol

from service.errors import ModelError
from service.rendering import Message, Piece
from service.rendering.jinja import Chat
from service.rendering.scaffold import Scaffold, pieces_of
from service.rendering.specials import Specials

_LIBRARY = "renderers"
_EFFORTS = ("no_think", "none", "minimal", "low", "medium", "high", "xhigh", "max")
"""What models call their efforts, least first."""

_REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)
"""How the library says that a template has no form for something."""

_HARMONY = (
    "gpt-oss"  # has a template of its own here: the library's needs a vocabulary from the network
)


class Told(NamedTuple):
    """Messages in pieces."""

    pieces: list[Piece]
    owners: list[int]
    """The message that each piece belongs to, by its number; -1 for those of none."""
    said: frozenset[int]
    """The messages that are answers."""

    def start(self, message: int) -> int:
        """Return where a message starts; where what follows does, if it is told by nothing."""
        owned = enumerate(self.owners)
        end = len(self.pieces) - len(self.tail())
        return next((at for at, owner in owned if owner >= message), end)

    def answers(self, at: int, message: int) -> bool:
        """Return whether a piece is part of an answer that stands right before a message."""
        return self.owners[at] == message - 1 and message - 1 in self.said

    def tail(self) -> list[Piece]:
        """Return what stands after all messages."""
        length = sum(1 for _ in takewhile(lambda owner: owner < 0, reversed(self.owners)))
        return self.pieces[len(self.pieces) - length :]


class _Rendered(Protocol):
    token_ids: list[int]
    message_indices: list[int]


class _Renderer(Protocol):
    def render(
        self, messages: list[Any], *, tools: list[Any] | None, add_generation_prompt: bool
    ) -> _Rendered: ...

    def get_stop_token_ids(self) -> list[int]: ...


class Scribe:
    """One template of the library's, told some options."""

    def __init__(self, renderer: _Renderer, scaffold: Scaffold) -> None:
        self._renderer = renderer
        self._scaffold = scaffold

    @classmethod
    def of(cls, name: str, specials: Specials, options: Mapping[str, Any]) -> "Scribe":
        """Return the template of that name, with those options that it knows. Raises `ModelError`."""
        scaffold = Scaffold(specials)
        return cls(_renderer(name, scaffold, options), scaffold)

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return frozenset(self._renderer.get_stop_token_ids())

    def told(self, chat: Chat) -> Told:
        """Render a conversation as it stands. Raises `ModelError`."""
        return self._rendered(chat, add_generation_prompt=False)

    def asked(self, chat: Chat) -> Told:
        """Render a conversation up to where the model answers. Raises `ModelError`."""
        return self._rendered(chat, add_generation_prompt=True)

    def _rendered(self, chat: Chat, **until: bool) -> Told:
        try:
            messages = [self._message(message) for message in chat.messages]
            tools = [self._tool(tool) for tool in chat.tools] or None
            rendered = self._renderer.render(messages, tools=tools, **until)
        except _REFUSALS as error:
            raise ModelError(
                "invalid_prompt", "This model's template has no form for this conversation."
            ) from error
        roles = enumerate(message["role"] for message in chat.messages)
        said = frozenset(at for at, role in roles if role == "assistant")
        return Told(pieces_of(rendered.token_ids), rendered.message_indices, said)

    def _message(self, message: Message) -> dict[str, Any]:
        """Return a message as the library reads it, what was said in it harmless."""
        said = {name: self._scaffold.said(told) for name, told in message.items()}
        said["role"] = message["role"]
        if calls := message.get("tool_calls"):
            said["tool_calls"] = [self._call(call) for call in calls]
        return said

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        function = call["function"]
        said = self._scaffold.said({"id": call["id"], "name": function["name"]})
        arguments = self._scaffold.keyed(_arguments(function["arguments"]))
        told = {"name": said["name"], "arguments": arguments}
        return {"type": "function", "id": said["id"], "function": told}

    def _tool(self, tool: Mapping[str, Any]) -> dict[str, Any]:
        function = dict(tool["function"])
        parameters = self._scaffold.keyed(function.pop("parameters"))
        said = {**self._scaffold.said(function), "parameters": parameters}
        return {"type": "function", "function": said}


def installed() -> bool:
    """Return whether there is the library."""
    return importlib.util.find_spec(_LIBRARY) is not None


def version() -> str:
    """Return the version of the library. Raises `ModelError` where it is not installed."""
    return str(_library().__version__)


def names_for(model: str) -> list[str]:
    """Return the name of the library's template for a model, or all names if it does not know the model.

    Models are compared by name without owner and case. Raises `ModelError` without the library.
    """
    models = _library("base").MODEL_RENDERER_MAP
    names = {_bare(full): name for full, name in models.items() if name != _HARMONY}
    by_name = names.get(_bare(model))
    return [by_name] if by_name else sorted(set(names.values()))


def _bare(model: str) -> str:
    return model.rstrip("/").rpartition("/")[2].casefold()


def _library(module: str = "") -> Any:
    try:
        return importlib.import_module(f"{_LIBRARY}.{module}".rstrip("."))
    except ImportError as error:
        raise ModelError(
            "server_error",
            "To render for this model, install the packages 'renderers' and 'httpx'.",
        ) from error


def _renderer(name: str, scaffold: Scaffold, options: Mapping[str, Any]) -> _Renderer:
    library = _library()
    config = library.config_from_name(name)
    told = {k: v for k, v in _named(options).items() if k in config.template_field_names()}
    for effort in _nearest(told.get("reasoning_effort")):
        chosen = {**told, "reasoning_effort": effort} if "reasoning_effort" in told else told
        with contextlib.suppress(*_REFUSALS):
            renderer: _Renderer = library.create_renderer(
                scaffold, config, chat_template_kwargs=scaffold.said(chosen)
            )
            return renderer
    raise _unsuitable(told)


def _unsuitable(options: Mapping[str, Any]) -> ModelError:
    if options:
        return ModelError(
            "invalid_prompt",
            "This model does not know these 'chat_template_kwargs' or this effort.",
        )
    return ModelError(
        "server_error", "The vocabulary is not the one that the template is made for."
    )


def _named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options by all names that templates have for them."""
    thinking = {"thinking": options["enable_thinking"]} if "enable_thinking" in options else {}
    return {**thinking, **options}


def _nearest(effort: Any) -> Sequence[Any]:
    """Return an effort, then others that models may know, the nearest first."""
    if effort not in _EFFORTS:
        return [effort]
    wanted = _EFFORTS.index(effort)
    return sorted(_EFFORTS, key=lambda known: abs(_EFFORTS.index(known) - wanted))


def _arguments(text: str) -> Any:
    """Return the arguments of a call as templates read them; as text if they are no JSON object."""
    with contextlib.suppress(ValueError, RecursionError):
        arguments = json.loads(text)
        if isinstance(arguments, dict) and _is_text(text, arguments):
            return arguments
    return text


def _is_text(text: str, arguments: Any) -> bool:
    """Return whether arguments are text throughout: JSON can escape halves of characters."""
    return "\\u" not in text or bool(json.dumps(arguments, ensure_ascii=False).encode())
