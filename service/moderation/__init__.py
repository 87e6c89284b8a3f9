"""Screening: what classifiers say of input and output, and whether either is withheld for it.

A client asks for a classifier, and whether what it flags is to be withheld or only told. A tenant's policy
is what happens to all its turns at least. Where both name the same classifier it looks once, and withholds
what either wants withheld; where they do not both look, each for those who want it.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import structlog

from service.errors import Failed, Refusal
from service.moderation.cache import TenantVerdicts, VerdictCache
from service.moderation.texts import text_of
from service.moderation.verdicts import (
    Classifier,
    Failure,
    Screened,
    Verdict,
    combined,
    moderation_json,
)
from turnwire.v1 import items_pb2, responses_pb2

__all__ = [
    "Classifier",
    "Failure",
    "Judgement",
    "Moderator",
    "PolicyOf",
    "Screened",
    "Screening",
    "Verdict",
    "VerdictCache",
    "moderation_json",
]

log = structlog.get_logger(__name__)

Side: TypeAlias = Literal["input", "output"]
PolicyOf: TypeAlias = Callable[[str], responses_pb2.ModerationSettings | None]
"""How all turns of a tenant are screened at least, as it is now."""

_SIDES: Sequence[Side] = ("input", "output")
_MODES = ("score", "block")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came of screening one side of a turn."""

    said: Screened
    """By the classifier that the client asked for; by the policy's if it asked for none."""
    passes: bool
    """Whether it may go on: always where nothing is to be withheld."""
    flagged: bool
    """Whether any classifier flagged it, withheld or not."""


@dataclass(frozen=True, slots=True)
class _Order:
    """What one classifier is to look at, and what is withheld for what it says."""

    classifier: Classifier
    blocks: frozenset[Side]


@dataclass(frozen=True, slots=True)
class Screening:
    """How one turn is to be screened."""

    told: bool
    """Whether the client asked, and so is told what was said."""
    _orders: Sequence[_Order]
    """The one that is told first."""
    _verdicts: TenantVerdicts

    @property
    def blocks_input(self) -> bool:
        """Whether input has to wait for its verdict before the model sees it."""
        return any("input" in order.blocks for order in self._orders)

    @property
    def blocks_output(self) -> bool:
        """Whether output has to wait for its verdict before the client sees it."""
        return any("output" in order.blocks for order in self._orders)

    async def judge(self, side: Side, items: Iterable[items_pb2.Item]) -> Judgement:
        """Return what is said of a side's items, which must be legible.

        Each item is classified by itself and once only. Of no text nothing is said. A classifier that
        fails lets nothing pass that is to be withheld when flagged.
        """
        texts = [text for item in items if (text := text_of(item))]
        said = await asyncio.gather(*(self._said(order, texts) for order in self._orders))
        pairs = list(zip(self._orders, said, strict=True))
        return Judgement(
            said=said[0],
            passes=all(verdict.passes or side not in order.blocks for order, verdict in pairs),
            flagged=any(isinstance(verdict, Verdict) and verdict.flagged for verdict in said),
        )

    async def _said(self, order: _Order, texts: Sequence[str]) -> Screened:
        verdicts = await self._verdicts.of(order.classifier, texts)
        if isinstance(verdicts, Failure):
            return verdicts
        return combined(order.classifier.name, verdicts)


class Moderator:
    """The classifiers there are, and what tenants' policies say of them."""

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        cache: VerdictCache,
        policy_of: PolicyOf = lambda _: None,
    ) -> None:
        self._classifiers = {classifier.name: classifier for classifier in classifiers}
        self._cache = cache
        self._policy_of = policy_of

    @property
    def classifiers(self) -> Sequence[str]:
        """What they are called; the first is the one meant where none is named."""
        return list(self._classifiers)

    def understand(
        self, settings: responses_pb2.ModerationSettings | None, tenant: str
    ) -> Screening | None:
        """Return how a turn is to be screened, if it is. Raises `Refusal`."""
        asked = [] if settings is None else [self._order(settings)]
        orders = _merged([*asked, *self._required(tenant)])
        return Screening(bool(asked), orders, self._cache.of(tenant)) if orders else None

    async def admit(self, tenant: str, items: Iterable[items_pb2.Item]) -> None:
        """Refuse items that a tenant's policy withholds: for what a model is told without a turn.

        The items must be legible.
        """
        screening = self.understand(None, tenant)
        if screening is None or not screening.blocks_input:
            return
        if not (await screening.judge("input", items)).passes:
            message = (
                "The input was withheld: the content policy of this server does not let it pass."
            )
            raise Refusal("invalid_prompt", message, "input")

    async def classify(self, tenant: str, name: str, texts: Sequence[str]) -> Sequence[Screened]:
        """Return what a classifier says of each text. Raises `Refusal` if there is no such classifier."""
        classifier = self._classifier(name, "model")
        distinct = list(dict.fromkeys(texts))
        verdicts = await self._cache.of(tenant).of(classifier, distinct)
        if isinstance(verdicts, Failure):
            return [verdicts] * len(texts)
        said = dict(zip(distinct, verdicts, strict=True))
        return [said[text] for text in texts]

    def _required(self, tenant: str) -> Sequence[_Order]:
        """Return what a tenant's policy asks for. Raises `Failed` if that cannot be had: nothing passes."""
        policy = self._policy_of(tenant)
        try:
            return [] if policy is None else [self._order(policy)]
        except Refusal:
            log.warning("screening_policy_unusable")
            raise Failed from None

    def _order(self, settings: responses_pb2.ModerationSettings) -> _Order:
        classifier = self._classifier(settings.model, "moderation.model")
        policy = settings.policy
        return _Order(classifier, frozenset(side for side in _SIDES if _blocks(policy, side)))

    def _classifier(self, name: str, param: str) -> Classifier:
        if not self._classifiers:
            message = "'moderation' is not supported: this server has no classifier."
            raise Refusal("unsupported_parameter", message, "moderation")
        if classifier := self._classifiers.get(name):
            return classifier
        names = ", ".join(map(repr, self._classifiers))
        message = f"There is no such classifier. There are: {names}."
        raise Refusal("invalid_value", message, param)


def _merged(orders: Sequence[_Order]) -> Sequence[_Order]:
    """Have no classifier look twice: what one of two orders withholds is withheld."""
    merged: dict[str, _Order] = {}
    for order in orders:
        before = merged.get(order.classifier.name, order)
        merged[order.classifier.name] = _Order(order.classifier, before.blocks | order.blocks)
    return list(merged.values())


def _blocks(policy: responses_pb2.ModerationPolicy, side: Side) -> bool:
    """Tell whether a side of the conversation is withheld. Left open, verdicts are only told."""
    if not policy.HasField(side):
        return False
    mode: str = getattr(policy, side).mode
    if mode not in _MODES:
        message = f"'mode' must be one of {', '.join(map(repr, _MODES))}."
        raise Refusal("invalid_value", message, f"moderation.policy.{side}.mode")
    return mode == "block"
