"""Where the renderings of turns are kept: with their segments, under keys of their own.

Where a template tells thoughts only until the user speaks again, a turn with thoughts has two
renderings, one for either `Cycle`; all other turns have one.
"""

from collections.abc import Iterable

from service.backends import Prompt
from service.conversation import Rendered, Segment
from service.rendering import Cycle


class Shelf:
    """The keys of one dialect."""

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        """The key of turns that are the same in either cycle."""
        self._either = {cycle: f"{dialect}/{cycle.value}" for cycle in Cycle}
        self.alone = f"{dialect}/alone"
        """The key of a mark: turns of this conversation do not add up, it is told at once."""

    def key_in(self, cycle: Cycle) -> str:
        """Return the key of a turn that is another in the other cycle."""
        return self._either[cycle]

    def kept(self, segments: Iterable[Segment], cycle: Cycle) -> list[Rendered | None]:
        """Return what is kept of each turn: of all turns at once, for there may be many."""
        either, own = self.dialect, self.key_in(cycle)
        found = (segment.rendered for segment in segments)
        return [rendered.get(either) or rendered.get(own) for rendered in found]

    def drop(self, segment: Segment) -> None:
        """Let go of what is kept of a turn."""
        for key in (self.dialect, *self._either.values()):
            segment.rendered.pop(key, None)

    def stands_alone(self, prompt: Prompt) -> bool:
        """Whether this conversation was found not to add up."""
        return bool(prompt.history) and self.alone in prompt.history[-1].rendered
