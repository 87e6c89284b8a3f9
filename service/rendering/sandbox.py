"""Jinja as Hugging Face sets it up for chat templates, in a sandbox.

The sandbox keeps templates from the attributes of Python's objects, from changing what they are given, and
from ranges of more than 100,000. It does not count steps. What is bounded here beyond that: the text that
comes out, texts and lists made by multiplying, and all ranges together. What is not: loops in loops over
what a template is told, and texts that are joined to themselves, padded or filled. Templates come with
models, which nobody but the operator chooses.
"""

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, safe_range

from service.rendering.specials import BREAK

_MOST_CHARACTERS = 64 * 1024 * 1024  # of one rendering
_MOST_STEPS = 1_000_000  # of all ranges of one rendering
_MOST_REPEATED = 100_000  # of a text or list, by multiplication
_NOT_ASCII = re.compile(f"[^\\x00-\\x7f{BREAK}]")


class Ranges:
    """`range` for one rendering: all ranges together have a bound."""

    def __init__(self) -> None:
        self._steps = 0

    def __call__(self, *bounds: int) -> range:
        """Return a range. Raises `SecurityError` if there were too many."""
        steps = safe_range(*bounds)
        self._steps += len(steps)
        if self._steps > _MOST_STEPS:
            raise SecurityError("a template counts for too long")
        return steps


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which nothing grows by multiplying."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Multiply within bounds. Raises `SecurityError`."""
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" or (not numbers and _repeated(left, right) > _MOST_REPEATED):
            raise SecurityError("a template multiplies too much")
        return super().call_binop(context, operator, left, right)


class _Generation(Extension):
    """The `generation` tag, which marks for training what a model writes: here it marks nothing."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Read what is marked; names it sets are its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def environment() -> ImmutableSandboxedEnvironment:
    """Return what compiles templates."""
    made = _Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, "jinja2.ext.loopcontrols"],
    )
    made.filters["tojson"] = _to_json
    return made


def _repeated(left: Any, right: Any) -> int:
    """Return how long a text or list becomes when it is repeated."""
    several, times = (right, left) if isinstance(left, int) else (left, right)
    return len(several) * times


def bounded(chunks: Iterable[str]) -> str:
    """Join what a template writes. Raises `SecurityError` if there is no end to it."""
    written: list[str] = []
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > _MOST_CHARACTERS:
            raise SecurityError("a template writes too much")
        written.append(chunk)
    return "".join(written)


def raise_exception(message: str) -> None:
    """Refuse a conversation, as templates do."""
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - what templates may say is given
    indent: int | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002
) -> str:
    """Return JSON with nothing escaped that need not be."""
    parts = (separators[0], separators[1]) if separators else None
    text = json.dumps(
        value, ensure_ascii=False, indent=indent, separators=parts, sort_keys=sort_keys
    )
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text) if ensure_ascii else text
