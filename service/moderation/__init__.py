"""Screening: what a classifier says of input and output, and whether either is withheld for it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from service.errors import Refusal
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
    "Moderator",
    "Screened",
    "Screening",
    "Verdict",
    "VerdictCache",
    "moderation_json",
]

_MODES = ("score", "block")


@dataclass(frozen=True, slots=True)
class Screening:
    """How one request is to be screened."""

    blocks_input: bool
    """Whether input that does not pass ends the turn before the model sees it."""
    blocks_output: bool
    """Whether output that does not pass is withheld."""
    _classifier: Classifier
    _verdicts: TenantVerdicts

    async def verdict(self, items: Iterable[items_pb2.Item]) -> Screened:
        """Return the gravest verdict on the texts of these items, which must be legible.

        Each item is classified by itself and once only. Of no text nothing is said.
        """
        texts = [text for item in items if (text := text_of(item))]
        verdicts = await self._verdicts.of(self._classifier, texts)
        if isinstance(verdicts, Failure):
            return verdicts
        return combined(self._classifier.name, verdicts)


class Moderator:
    """The classifiers there are."""

    def __init__(self, classifiers: Sequence[Classifier], cache: VerdictCache) -> None:
        self._classifiers = {classifier.name: classifier for classifier in classifiers}
        self._cache = cache

    def understand(
        self, settings: responses_pb2.ModerationSettings | None, tenant: str
    ) -> Screening | None:
        """Return how a request is to be screened, if it asks for it. Raises `Refusal`."""
        if settings is None:
            return None
        classifier = self._classifier(settings.model)
        return Screening(
            _blocks(settings.policy, "input"),
            _blocks(settings.policy, "output"),
            classifier,
            self._cache.of(tenant),
        )

    def close(self) -> None:
        """Let go of the classifiers."""
        for classifier in self._classifiers.values():
            classifier.close()

    def _classifier(self, name: str) -> Classifier:
        if not self._classifiers:
            message = "'moderation' is not supported: this server has no classifier."
            raise Refusal("unsupported_parameter", message, "moderation")
        if classifier := self._classifiers.get(name):
            return classifier
        names = ", ".join(map(repr, self._classifiers))
        message = f"There is no such classifier. There are: {names}."
        raise Refusal("invalid_value", message, "moderation.model")


def _blocks(policy: responses_pb2.ModerationPolicy, side: Literal["input", "output"]) -> bool:
    """Tell whether a side of the conversation is withheld. Left open, verdicts are only told."""
    if not policy.HasField(side):
        return False
    mode: str = getattr(policy, side).mode
    if mode not in _MODES:
        message = f"'mode' must be one of {', '.join(map(repr, _MODES))}."
        raise Refusal("invalid_value", message, f"moderation.policy.{side}.mode")
    return mode == "block"
