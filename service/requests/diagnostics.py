"""What of an earlier prompt a new one can use again, and the first thing that is in the way.

Pure rules behind `prompt_cache_options.comparison_response_id`. A model server can use again what it
computed for the same beginning of a prompt, so the first difference in prompt order decides: the
settings, then the items one by one.

An answer that the client leaves out, to say something else in its place, is no difference: all of the
compared prompt is still used. An answer told otherwise than it was given is one.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson

from service.closed import opened_bytes
from service.compaction import BYTES_A_TOKEN
from service.conversation import Fingerprint, Node, Segment
from service.requests.calls import is_models
from service.requests.meaning import Legible, same
from turnwire.v1 import items_pb2, responses_pb2

_BYTES, _ITEMS = 4 * 1024 * 1024, 8192
"""How much is compared item by item, and how much that is sealed may open to: some 30 ms of work."""

_SETTINGS = (
    ("model", "model_changed", "model"),
    ("prompt_cache_key", "prompt_cache_key_changed", "prompt_cache_key"),
    ("tools", "tools_changed", "tools"),
    ("instructions", "input_changed", "instructions"),
    ("text_format", "text_format_changed", "text.format"),
    ("verbosity", "verbosity_changed", "text.verbosity"),
    ("reasoning_effort", "reasoning_effort_changed", "reasoning.effort"),
    ("service_tier", "service_tier_changed", "service_tier"),
)
"""In prompt order: a part of the fingerprint, the reason it is, the request's member it comes from."""


def fingerprint(settings: responses_pb2.Settings, tools: Sequence[items_pb2.Tool]) -> Fingerprint:
    """Return what a prompt depends on beside its items; what is left open counts as its default.

    `tools` are those that the model is told of, in order. The hashes are the same in every process.
    """
    text = settings.text
    return Fingerprint(
        model=_hash(settings.model.encode()),
        prompt_cache_key=_hash(settings.prompt_cache_key.encode()),
        instructions=_hash(_instructions(settings)),
        tools=_hash(b"".join(tool.SerializeToString(deterministic=True) for tool in tools)),
        text_format=_hash(_text_format(text.format)),
        verbosity=_hash(_word(text.verbosity, "medium")),
        reasoning_effort=_hash(settings.reasoning.effort.encode()),
        service_tier=_hash(_word(settings.service_tier, "auto")),
    )


def diagnose(
    compared: Node | None,
    parent: Node | None,
    items: Sequence[items_pb2.Item],
    told: Fingerprint,
    legible: Legible,
) -> str:
    """Compare a prompt, `items` after all of `parent`, with that of `compared`.

    Return `Response.prompt_cache_diagnostics_json`. Beside the protocol's members a miss has
    `changed`: the member of the request that is different, `input[3]` where it is an item,
    `previous_response_id` where the difference is in what came before. Tokens are estimates.
    Raises what `legible` raises.
    """
    return orjson.dumps(_diagnosis(compared, _Prompt.of(parent, items), told, legible)).decode()


class _TooLong(Exception):
    """The prompts could be compared item by item only, and are too long for that."""


class _Told(NamedTuple):
    """An item of the compared response's conversation."""

    item: items_pb2.Item
    is_answer: bool
    """Whether it was that response's output, and so not in its prompt."""


class _New(NamedTuple):
    """An item of the new prompt."""

    item: items_pb2.Item
    member: str
    """The request's member that it comes from."""


class _Difference(NamedTuple):
    """The first item that is different."""

    reason: str
    changed: str
    length: int
    """Bytes of the items before it."""


@dataclass(frozen=True, slots=True)
class _Prompt:
    """The new prompt."""

    parent: Node | None
    """None where nothing of what came before is in the prompt."""
    items: Sequence[items_pb2.Item]
    first: int
    """Index of the first item that is not superseded."""

    @classmethod
    def of(cls, parent: Node | None, items: Sequence[items_pb2.Item]) -> "_Prompt":
        """Leave out what a compaction among the items stands for."""
        compaction = _last_compaction(items)
        return cls(parent, items, 0) if compaction is None else cls(None, items, compaction)

    def path(self) -> list[Segment]:
        return self.parent.segment.path() if self.parent else []

    @property
    def length(self) -> int:
        """Bytes of its items."""
        new = sum(item.ByteSize() for item in self.items[self.first :])
        return self._inherited + new

    @property
    def tokens(self) -> int:
        return self._tokens_to(self.length)

    def missed(self, difference: _Difference) -> int:
        """Tokens from the first different item on."""
        return (self.length - difference.length) // BYTES_A_TOKEN

    def reusable(self, difference: _Difference) -> int:
        """Tokens before the first different item."""
        return self._tokens_to(difference.length)

    @property
    def _inherited(self) -> int:
        return self.parent.segment.length if self.parent else 0

    def _tokens_to(self, length: int) -> int:
        """Estimate the tokens of its first bytes, from what the model server told of its parent."""
        if self.parent and self.parent.tokens and length >= self._inherited:
            return self.parent.tokens + (length - self._inherited) // BYTES_A_TOKEN
        return length // BYTES_A_TOKEN


def _diagnosis(
    compared: Node | None, prompt: _Prompt, told: Fingerprint, legible: Legible
) -> dict[str, object]:
    if compared is None:
        return {"type": "comparison_response_not_found"}
    if compared.fingerprint is None:
        return {"type": "unavailable"}
    for part, reason, member in _SETTINGS:
        if getattr(compared.fingerprint, part) != getattr(told, part):
            return _miss(reason, member, prompt.tokens, 0)
    try:
        difference = _difference(compared, prompt, legible)
    except _TooLong:
        return {"type": "unavailable"}
    if difference is None:
        return {"type": "cache_hit"}
    missed, reusable = prompt.missed(difference), prompt.reusable(difference)
    return _miss(difference.reason, difference.changed, missed, reusable)


def _miss(reason: str, changed: str, missed: int, reusable: int) -> dict[str, object]:
    return {
        "type": "cache_miss",
        "reason": reason,
        "changed": changed,
        "cache_missed_tokens": missed,
        "comparison_reusable_tokens": reusable,
    }


def _difference(compared: Node, prompt: _Prompt, legible: Legible) -> _Difference | None:
    """Find the first item that is different; segments that both share are not looked into."""
    before, now = compared.segment.path(), prompt.path()
    shared = _shared(before, now)
    if shared == len(before):
        return None
    length = before[shared - 1].length if shared else 0
    legible = _sparing(legible)
    pairs = zip(_told(compared, before[shared:]), _new(prompt, now[shared:]), strict=False)
    for index, (told, new) in enumerate(pairs):
        if index == _ITEMS:
            raise _TooLong
        if not same(told.item, new.item, legible):
            if told.is_answer and not is_models(new.item):
                return None
            compacted = index == shared == 0 and new.item.HasField("compaction")
            reason = "context_compacted" if compacted else "input_changed"
            return _Difference(reason, new.member, length)
        length += new.item.ByteSize()
    return None


def _shared(before: Sequence[Segment], now: Sequence[Segment]) -> int:
    """Return how many segments two conversations have in common."""
    pairs = zip(before, now, strict=False)
    differing = (index for index, (old, new) in enumerate(pairs) if old is not new)
    return next(differing, min(len(before), len(now)))


def _told(compared: Node, segments: Sequence[Segment]) -> Iterator[_Told]:
    for segment, items in _read(segments):
        answers = compared.inputs if segment is compared.segment else len(items)
        for index in range(_first(segment, items), len(items)):
            # The answer begins after a compaction made in its turn: the model was told that.
            is_answer = index >= answers and not items[index].HasField("compaction")
            yield _Told(items[index], is_answer)


def _new(prompt: _Prompt, segments: Sequence[Segment]) -> Iterator[_New]:
    for segment, items in _read(segments):
        for item in items[_first(segment, items) :]:
            yield _New(item, "previous_response_id")
    for index in range(prompt.first, len(prompt.items)):
        yield _New(prompt.items[index], f"input[{index}]")


def _read(segments: Sequence[Segment]) -> Iterator[tuple[Segment, Sequence[items_pb2.Item]]]:
    left = _BYTES
    for segment in segments:
        left -= segment.length - (segment.parent.length if segment.parent else 0)
        if left < 0:
            raise _TooLong
        yield segment, segment.items


def _sparing(legible: Legible) -> Legible:
    """Open sealed items only as far as that is little work, all taken together."""
    left = _BYTES

    def spared(items: Sequence[items_pb2.Item]) -> Sequence[items_pb2.Item]:
        nonlocal left
        left -= opened_bytes(items)
        if left < 0:
            raise _TooLong
        return legible(items)

    return spared


def _first(segment: Segment, items: Sequence[items_pb2.Item]) -> int:
    """Return the first item that is not superseded: only a first segment holds compactions."""
    return 0 if segment.parent else _last_compaction(items) or 0


def _last_compaction(items: Sequence[items_pb2.Item]) -> int | None:
    indexes = range(len(items) - 1, -1, -1)
    return next((index for index in indexes if items[index].HasField("compaction")), None)


def _instructions(settings: responses_pb2.Settings) -> bytes:
    if not settings.instruction_items:
        return settings.instructions.encode()
    items = (item.SerializeToString(deterministic=True) for item in settings.instruction_items)
    return b"".join((b"\0", *items))


def _text_format(text_format: responses_pb2.TextFormat) -> bytes:
    """Return the format as bytes, none for plain text."""
    if text_format.WhichOneof("kind") in (None, "text"):
        return b""
    return text_format.SerializeToString(deterministic=True)


def _word(word: str, default: str) -> bytes:
    return b"" if word == default else word.encode()


def _hash(data: bytes) -> int:
    """Return 64 bits of a hash; what is left open costs nothing."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) if data else 0
