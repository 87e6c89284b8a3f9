"""How a model writes what is not plain text: thoughts and calls. Learned from its template."""

from dataclasses import dataclass
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True)
class JsonCalls:
    """Calls whose arguments are a JSON object, for instance with the name in the same object."""

    before_name: str
    """From the beginning of the call: `<tool_call>\\n{"name": "`."""
    before_arguments: str
    """Between name and arguments: `", "arguments": `."""
    after_arguments: str
    """Up to the end of the call: `}\\n</tool_call>`."""


@dataclass(frozen=True, slots=True)
class TaggedCalls:
    """Calls whose arguments stand one by one between tags; values that are no strings are JSON."""

    before_name: str
    before_key: str
    """Between name and first key, and again between what follows a value and the next key."""
    before_value: str
    after_value: str
    after_call: str
    """After the last value, up to the end of the call."""


Calls: TypeAlias = JsonCalls | TaggedCalls


@dataclass(frozen=True, kw_only=True, slots=True)
class Syntax:
    """How one model writes its answers."""

    form: Literal["tags", "harmony"] = "tags"
    """Harmony has channels in place of tags; it needs nothing else said."""
    thought_opens: str = ""
    """Before thoughts, such as `<think>`; empty if the model has none."""
    thought_closes: str = ""
    calls: Calls | None = None
    """None if the model knows no calls, or none that could be learned."""
