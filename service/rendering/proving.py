"""Whether the turns of a template add up: it has to prove that on conversations of many kinds."""

from collections.abc import Sequence

from service.errors import ModelError
from service.rendering import Cycle, Message, Template
from service.rendering.manners import Manners
from service.rendering.trials import Probe, probes


def not_proven(template: Template, manners: Manners) -> str:
    """Return what does not add up; nothing if all does."""
    return next((probe.what for probe in probes(manners.known) if not adds_up(template, probe)), "")


def adds_up(template: Template, probe: Probe) -> bool:
    """Whether a conversation is the sum of its turns."""
    opening, turns = probe.opening, probe.turns
    try:
        whole = template.whole(opening, [message for turn in turns for message in turn])
        parts = [template.preamble(opening)]
        parts += map(template.turn, turns, cycles_of(turns))
        parts.append(template.answer_opens(opening))
    except ModelError:
        return False
    return [piece for part in parts for piece in part] == list(whole)


def cycles_of(turns: Sequence[Sequence[Message]]) -> list[Cycle]:
    """Return whether the user speaks after each of the turns."""
    asking = [any(message["role"] == "user" for message in turn) for turn in turns]
    return [Cycle.CLOSED if any(asking[n + 1 :]) else Cycle.OPEN for n in range(len(turns))]
