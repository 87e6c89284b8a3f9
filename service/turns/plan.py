"""What a turn is to do, decided before its response exists."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from service.backends import Backend, Prompt
from service.compaction import Compactions, Compactor
from service.conversation import Fingerprint, Node
from service.conversations import Joined
from service.errors import ModelError
from service.limits import TurnLimits
from service.metrics import TransportMetrics
from service.moderation import Screening
from service.requests import diagnostics
from service.requests.request import Request
from service.tenants import Account
from turnwire.delta import Event

if TYPE_CHECKING:
    from service.turns.run import Run


@dataclass(frozen=True, slots=True)
class Means:
    """What all turns do their work with."""

    compactions: Compactions
    compactor: Compactor
    limits: TurnLimits


@dataclass(frozen=True, kw_only=True)  # without slots: the fingerprint is kept beside the fields
class Plan:
    """What one turn is to do."""

    tenant: str
    stream_id: str | None
    request: Request
    backend: Backend
    screening: Screening | None
    compact_at: int | None
    """From how many tokens on the conversation is compacted before the turn."""
    compared: Node | None
    """The response whose prompt this one's is to be compared with."""
    joined: Joined | None
    """The conversation that it is made in, held for it."""

    @functools.cached_property
    def fingerprint(self) -> Fingerprint:
        """What the prompt depends on beside its items."""
        return diagnostics.fingerprint(self.request.settings, self.request.tools)

    @property
    def expects_cached(self) -> int:
        """How many tokens of the prompt the model server has computed before, for the turn it continues.

        Of what it sampled last it has not computed anything yet.
        """
        parent = self.request.parent
        if parent is None or self.request.begins_anew or parent.fingerprint != self.fingerprint:
            return 0
        return max(0, parent.tokens - 1)


def prompt_of(plan: Plan, means: Means, conversation: str) -> Prompt:
    """Return what the model is to continue. `conversation` is the same for all turns of a tree."""
    request = plan.request
    continued = request.parent and not request.begins_anew
    return Prompt(
        history=request.parent.segment.path() if request.parent and continued else [],
        input=request.legible,
        legible=functools.partial(means.compactions.legible, plan.tenant),
        model=request.settings.model,
        settings=request.settings,
        tools=request.tools,
        logprobs=request.wants_logprobs,
        extra_json=request.extra_json,
        conversation=conversation,
        tenant=plan.tenant,
        store=request.store,
        include=request.include,
    )


class Holder(Protocol):
    """Whoever asks for something to be done."""

    tenant: str

    def recall(self, response_id: str) -> Node | None:
        """Return a node that only it holds."""


class Caller(Holder, Protocol):
    """The connection a turn belongs to, as the turn sees it."""

    metrics: TransportMetrics
    account: Account
    """What its tenant has."""
    interruption: ModelError | None
    """Why the turn is being cut short, where its client should still be told."""

    @property
    def credential(self) -> str:
        """What its credential is called."""

    def keep(self, node: Node) -> None:
        """Hold a node for the connection's next turns."""

    def began(self, stream_id: str | None, run: "Run") -> None:
        """A turn's response exists: from now on it can be controlled."""

    def settling(self, stream_id: str | None) -> None:
        """A turn's model has finished: from now on nothing changes its response."""

    def deliver(self, events: Sequence[Event]) -> None:
        """Send events to the client."""

    @property
    def behind(self) -> bool:
        """Whether the client has so much left to read that nothing more should be produced."""

    async def ready(self) -> None:
        """Return when the client is no longer behind."""
