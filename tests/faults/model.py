"""What a client may expect of what it asks for, from what it has heard: no more is certain.

A create is certain to succeed, certain to be refused with one code, or in doubt between them, where
what happens on other lanes at the same time decides.
"""

import dataclasses
from collections.abc import Iterable

from tests.faults.told import Told

OK = "ok"
NOT_FOUND = "previous_response_not_found"


@dataclasses.dataclass(eq=False)
class Response:
    """A response that was heard of."""

    id: str
    lane: str | None
    line: int
    """The connection it was made on."""
    stored: bool
    marks: tuple[str, ...] | None
    """What was said to the model up to and in this turn, in order; None where that is not certain."""
    own: tuple[str, ...]
    """Those that this turn added, unless steered input went before them."""
    told: Told
    calls: frozenset[str] = frozenset()
    """Calls that no output has answered when it has ended."""
    answered: frozenset[str] = frozenset()
    """Calls that its turn answered."""
    steered: list[str] = dataclasses.field(default_factory=list)
    """Marks of steerings that were accepted, in order."""
    followed: bool = False
    """Whether another response followed by itself, or waits for what the client owes."""
    disturbed: bool = False
    """Whether somebody asked for its end."""
    deleting: bool = False
    """Whether somebody has asked to delete it."""
    deleted: bool = False
    failed_on: bool = False
    """Whether a turn that continued it failed or was refused: then it may have been let go of."""
    gone: bool = False
    """Whether it certainly was."""

    @property
    def status(self) -> str:
        """How it stands."""
        return self.told.response.status

    @property
    def continuable(self) -> bool:
        """Whether it has ended and is one that can be continued."""
        return self.told.over and self.status in {"completed", "incomplete"}

    @property
    def may_be_gone(self) -> bool:
        """Whether its connection may have let go of it."""
        return self.failed_on and not self.stored


@dataclasses.dataclass(eq=False)
class Asked:
    """A create that was sent, and what may become of it."""

    mark: str
    lane: str | None
    line: int
    parent: Response | None
    expected: frozenset[str]
    """What was certain, or possible, when it was sent: `OK` and codes."""
    script: str
    stored: bool
    answers: frozenset[str] = frozenset()
    """Calls whose outputs it has."""
    conversation: bool = False
    referred: Response | None = None
    """A stored response of which it repeats an item."""
    made: Response | None = None
    over: bool = False

    def allowed(self) -> frozenset[str]:
        """Return what may become of it, with what has happened since it was sent."""
        if OK not in self.expected:
            return self.expected
        doubts = set()
        if self.parent and (self.parent.deleting or self.parent.may_be_gone):
            doubts.add(NOT_FOUND)
        if self.referred and self.referred.deleting:
            doubts.add("item_not_found")
        return self.expected | doubts


def expected_of(parent: Response, line: int, store: bool | None) -> frozenset[str]:
    """Return what continuing a response can come to on a connection."""
    if parent.deleted or parent.gone or not parent.continuable:
        return frozenset({NOT_FOUND})
    if not parent.stored and parent.line != line:
        return frozenset({NOT_FOUND})
    if store and not parent.stored:
        return frozenset({"invalid_value", NOT_FOUND})
    return frozenset({OK})


def is_let_go(parent: Response, failed: Asked, all_asked: Iterable[Asked]) -> bool:
    """Tell whether a failure certainly made its connection let go of an unstored parent.

    No other lane ended with it; nor may a turn that is still to be answered stand on it there.
    """
    needed = any(o.parent is parent and o.lane != failed.lane and not o.over for o in all_asked)
    return not needed and parent.line == failed.line


def is_recited(parent: Response | None, own: tuple[str, ...], said: tuple[str, ...]) -> bool:
    """Tell whether a model was told its conversation: what came before, then what the turn added.

    Between them stands steered input, where that waited for outputs.
    """
    before = parent.marks if parent else ()
    if said[len(said) - len(own) :] != own or before is None:
        return said[len(said) - len(own) :] == own
    between = said[len(before) : len(said) - len(own)]
    steered = parent.steered if parent else []
    return said[: len(before)] == before and set(between) <= set(steered)
