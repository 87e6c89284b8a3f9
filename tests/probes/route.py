"""A way to name a thing of a tenant's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.probes.asking import Request
from tests.probes.creates import Create, Own
from tests.probes.guesses import Kind

SELDOM = 1
_OFTEN = 4
Ask = Callable[[str, Own], Request]
"""Takes a name, and what is the asker's own."""


@dataclass(frozen=True, slots=True)
class Route:
    """A way to ask about a name."""

    transport: str
    name: str
    kinds: Sequence[Kind]
    request: Ask
    weight: int = _OFTEN
    """How often it is taken: seldom where a turn is made whatever the name."""


def weight_of(create: Create) -> int:
    """Return how often a create is sent."""
    return SELDOM if create.makes_a_turn else _OFTEN


def first_in(conversation: str) -> str:
    """Return what the first item of a conversation is called."""
    return f"msg_{conversation.rpartition('_')[2]}i0"
