"""A model's own chat template, rendered as Hugging Face renders it, in pieces.

What users and tools say cannot act as the template does: no special token that it spells becomes one.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import orjson
from jinja2 import Environment, TemplateError, nodes

from service.errors import ModelError
from service.rendering import Files, Message, Piece
from service.rendering.configured import sources_of, tokens_of
from service.rendering.sandbox import Ranges, bounded, environment, raise_exception
from service.rendering.specials import BREAK, Specials

Clock: TypeAlias = Callable[[], datetime]

_TOOL_USE = "tool_use"
_OURS = {"role", "type"}
"""Members of messages and tools that say nothing of a client's."""
_WRONG = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)
"""What a template raises by itself, or comes to where a conversation is not what it expects."""


class Chat(NamedTuple):
    """What a template is given."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    options: Mapping[str, Any] = MappingProxyType({})


class JinjaTemplate:
    """Renders conversations by one chat template."""

    def __init__(
        self,
        sources: Mapping[str, str],
        tokens: Mapping[str, Any],
        specials: Specials,
        clock: Clock = lambda: datetime.now(UTC).astimezone(),
    ) -> None:
        """`sources` are templates by name, `tokens` what they call special tokens.

        Raises `ModelError` where there is no template, or one that is none.
        """
        if any(BREAK in source for source in sources.values()) or "default" not in sources:
            raise ModelError("server_error", "The model comes without a usable chat template.")
        self.sources = sources
        self.specials = specials
        self.tokens = tokens
        self._clock = clock
        jinja = environment()
        try:
            self._templates = {n: jinja.from_string(text) for n, text in sources.items()}
            self._rests = specials.rests(_constants(jinja, sources))
        except TemplateError as error:
            raise ModelError("server_error", "The model's chat template cannot be read.") from error

    @classmethod
    def of(cls, files: Files, specials: Specials) -> "JinjaTemplate":
        """Make one of a model's files. Raises `ModelError` for the operator."""
        return cls(sources_of(files), tokens_of(files), specials)

    @property
    def identity(self) -> str:
        """Tells what it renders apart from what other templates do."""
        told = [dict(self.sources), dict(self.tokens), dict(self.specials.ids)]
        digest = orjson.dumps(told, option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(digest, digest_size=16).hexdigest()

    @property
    def has_tool_use(self) -> bool:
        """Whether there is a template of its own for conversations with tools."""
        return _TOOL_USE in self.sources

    def told(self, chat: Chat) -> list[Piece]:
        """Render a conversation as it stands. Raises `ModelError` if the template refuses it."""
        return self._rendered(chat, {"add_generation_prompt": False})

    def asked(self, chat: Chat) -> list[Piece]:
        """Render a conversation up to where the model answers. Raises `ModelError`."""
        return self._rendered(chat, {"add_generation_prompt": True})

    def _rendered(self, chat: Chat, until: Mapping[str, bool]) -> list[Piece]:
        name = _TOOL_USE if chat.tools and self.has_tool_use else "default"
        try:
            written = self._templates[name].generate({**self._values(chat), **until})
            return self.specials.pieces(bounded(written))
        except _WRONG as error:
            raise ModelError(
                "invalid_prompt", "The model's chat template does not take this conversation."
            ) from error

    def _values(self, chat: Chat) -> Mapping[str, Any]:
        """Return what a template may name: nothing that a client chose goes before what is ours."""
        return {
            **{name: self._said(value) for name, value in chat.options.items()},
            **self.tokens,
            "messages": [self._said(message, 3) for message in chat.messages],
            "tools": [self._said(tool, 2) for tool in chat.tools] or None,
            "documents": None,
            "range": Ranges(),
            "raise_exception": raise_exception,
            "strftime_now": lambda form: self._clock().strftime(form),
        }

    def _said(self, told: Any, ours: int = 0) -> Any:
        """Return what was said so that it spells no token, alone or behind what the template spells.

        The names in so many levels of objects are ours: those the template has to find.
        """
        match told:
            case Mapping() if ours:
                return {
                    name: value if name in _OURS else self._said(value, ours - 1)
                    for name, value in told.items()
                }
            case list() | tuple() if ours:
                return [self._said(value, ours) for value in told]
            case _:
                return self.specials.broken(told, self._rests)


def _constants(jinja: Environment, sources: Mapping[str, str]) -> Iterator[str]:
    """Yield the texts that stand in templates. Raises `TemplateError`."""
    for source in sources.values():
        for node in jinja.parse(source).find_all((nodes.TemplateData, nodes.Const)):
            text = node.data if isinstance(node, nodes.TemplateData) else node.as_const()
            if isinstance(text, str):
                yield text
