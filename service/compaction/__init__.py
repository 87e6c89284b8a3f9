"""Long conversations in short: compaction items, and what a compactor is asked for.

A compaction item stands for the whole conversation before it. Its `encrypted_content` is a sealed
`items_pb2.Items`: a developer message that says what was left out, then items kept as they were,
never a compaction. So whatever is compacted can be told to every model, and compacted again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from service.backends import Backend, Finished, Prompt
from service.closed import MOST_OPENED, TOO_MUCH_SEALED, is_closed, opened_bytes
from service.compaction.excerpt import last_takeover
from service.errors import ModelError, Refusal
from service.sealing import Seal, Unsealed
from turnwire.v1 import items_pb2, responses_pb2

BYTES_A_TOKEN = 4
_LEAST_THRESHOLD, _USUAL_THRESHOLD = 1000, 24_000
MOST_KEPT = MOST_OPENED // 2
"""Bytes that are kept at most when a conversation is compacted, so that it has room to go on."""


class Compactions:
    """Makes compaction items, and reads them and whatever else in a conversation is sealed."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    def item(self, tenant: str, item_id: str, items: Sequence[items_pb2.Item]) -> items_pb2.Item:
        """Return the item that stands for `items`. Raises `Refusal` if they are too long for one."""
        data = items_pb2.Items(items=items).SerializeToString()
        if (text := self._sealed(tenant, "compaction", data)) is None:
            raise Refusal(
                "context_length_exceeded",
                "Even compacted the conversation is too long. Begin a new one.",
                "input",
            )
        return items_pb2.Item(compaction=items_pb2.Compaction(id=item_id, encrypted_content=text))

    def sealed_reasoning(self, tenant: str, item: items_pb2.Item) -> items_pb2.Item:
        """Return a reasoning item with what it says also sealed, so that it can be sent back unshown.

        Raises `ModelError` for reasoning that is too long for that.
        """
        if not item.reasoning.content or item.reasoning.encrypted_content:
            return item
        said = items_pb2.Reasoning(content=item.reasoning.content).SerializeToString()
        if (text := self._sealed(tenant, "reasoning", said)) is None:
            raise ModelError("server_error", "The model's reasoning is too long to be sealed.")
        sealed = items_pb2.Item()
        sealed.CopyFrom(item)
        sealed.reasoning.encrypted_content = text
        return sealed

    def legible(self, tenant: str, items: Sequence[items_pb2.Item]) -> Sequence[items_pb2.Item]:
        """Return the items as a model can be told them: nothing of ours sealed, nothing superseded.

        They are returned themselves where that is so already. Raises `Refusal` for a compaction that
        cannot be read, or for too much; reasoning that cannot be read stays as it is, for model
        servers that may.
        """
        if not any(map(is_closed, items)):
            return items
        _check_opened(items)
        told = self._without_compactions(tenant, items)
        _check_opened(told)  # a compaction may have kept reasoning as it was sent, sealed
        return [self._with_reasoning(tenant, item) for item in told]

    def _sealed(self, tenant: str, purpose: str, data: bytes) -> str | None:
        """Seal, unless it is too much to be opened again."""
        try:
            return self._seal.seal(tenant, purpose, data) if len(data) <= MOST_OPENED else None
        except ValueError:
            return None

    def _without_compactions(
        self, tenant: str, items: Sequence[items_pb2.Item]
    ) -> list[items_pb2.Item]:
        kinds = [item.WhichOneof("kind") for item in items]
        opened: Sequence[items_pb2.Item] = []
        begin = 0
        if "compaction" in kinds:
            begin = len(kinds) - kinds[::-1].index("compaction")
            opened = self._opened(tenant, items[begin - 1].compaction)
        rest = zip(items[begin:], kinds[begin:], strict=True)
        return [*opened, *(item for item, kind in rest if kind != "compaction_trigger")]

    def _opened(self, tenant: str, compaction: items_pb2.Compaction) -> Sequence[items_pb2.Item]:
        try:
            data = self._seal.open(tenant, "compaction", compaction.encrypted_content)
        except Unsealed:
            raise Refusal(
                "invalid_value",
                "The 'encrypted_content' of a compaction item could not be read here: it was "
                "changed, is another tenant's, or comes from another server.",
                "input",
            ) from None
        return items_pb2.Items.FromString(data).items

    def _with_reasoning(self, tenant: str, item: items_pb2.Item) -> items_pb2.Item:
        content = self._reasoning(tenant, item.reasoning) if is_closed(item) else None
        return _shown(item, content) if content else item

    def _reasoning(self, tenant: str, reasoning: items_pb2.Reasoning) -> items_pb2.Reasoning | None:
        try:
            data = self._seal.open(tenant, "reasoning", reasoning.encrypted_content)
        except Unsealed:
            return None
        return items_pb2.Reasoning.FromString(data)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation that is to be compacted: all of it is `older`, then `recent`, both legible."""

    prompt: Prompt
    """What a model would be told of it now."""
    older: Sequence[items_pb2.Item]
    """What is compacted. If it is empty there is nothing to gain."""
    recent: Sequence[items_pb2.Item]
    """What stays whole."""

    @classmethod
    def whole(cls, prompt: Prompt) -> "Conversation":
        """Nothing is about to be answered: all of it may be compacted."""
        return cls(prompt, [*_history(prompt), *prompt.input], [])

    @classmethod
    def before_turn(cls, prompt: Prompt) -> "Conversation":
        """What the turn has to answer stays whole.

        That is its input; or, of a conversation that was sent in one piece, what would have been its
        input otherwise: all from where the client last took over from the model.
        """
        if prompt.history:
            return cls(prompt, _history(prompt), prompt.input)
        place = last_takeover(prompt.input)
        return cls(prompt, prompt.input[:place], prompt.input[place:])


class Compacted(NamedTuple):
    """What is left of a conversation."""

    items: Sequence[items_pb2.Item]
    """Legible; they stand for all of it."""
    finished: Finished | None
    """What it cost, where a model was asked."""


class Compactor(Protocol):
    """Decides what is left of a conversation."""

    async def compact(self, backend: Backend, conversation: Conversation) -> Compacted:
        """Compact. Raises `ModelError`. May take as long as a turn: the caller has the deadline.

        What is left has all of `recent`, and every call that one of its outputs, or one that is still
        to come, answers.
        """


def threshold(settings: responses_pb2.Settings) -> int | None:
    """Return from how many tokens on a conversation is to be compacted; None is never by itself.

    A client may leave the number to us. Raises `Refusal` for what cannot be honoured.
    """
    return min(map(_threshold, settings.context_management), default=None)


def estimate(items: Iterable[items_pb2.Item]) -> int:
    """Return roughly how many tokens items have."""
    return sum(item.ByteSize() for item in items) // BYTES_A_TOKEN


def _history(prompt: Prompt) -> Sequence[items_pb2.Item]:
    return prompt.legible([item for segment in prompt.history for item in segment.items])


def _shown(item: items_pb2.Item, opened: items_pb2.Reasoning) -> items_pb2.Item:
    shown = items_pb2.Item()
    shown.CopyFrom(item)
    shown.reasoning.content.extend(opened.content)
    return shown


def _check_opened(items: Iterable[items_pb2.Item]) -> None:
    if opened_bytes(items) > MOST_OPENED:
        raise Refusal("context_length_exceeded", TOO_MUCH_SEALED, "input")


def _threshold(management: responses_pb2.ContextManagement) -> int:
    if management.type != "compaction":
        raise Refusal(
            "invalid_value",
            "The only 'type' of context management here is 'compaction'.",
            "context_management",
        )
    if not management.HasField("compact_threshold"):
        return _USUAL_THRESHOLD
    if management.compact_threshold < _LEAST_THRESHOLD:
        raise Refusal(
            "invalid_value",
            f"'compact_threshold' must be at least {_LEAST_THRESHOLD}.",
            "context_management",
        )
    return management.compact_threshold
