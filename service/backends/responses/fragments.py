"""Items as an upstream reads them: JSON fragments, made once and spliced into every request.

What an upstream made itself goes back to it as it came, thoughts that only it can read included. It
has ids of its own for its calls, which our clients never see: their outputs are sent back under those.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import orjson

from service.backends import Prompt
from service.conversation import Rendered, Renderings, Segment
from service.errors import ModelError
from service.requests.calls import tie
from service.sealing import MARK
from turnwire import json_codec
from turnwire.v1 import items_pb2

_CALLS = {"function_call", "custom_tool_call"}
_OUTPUTS = {"function_call_output", "custom_tool_call_output"}
_ILLEGIBLE = {"item_reference", "compaction", "compaction_trigger"}


class Made(NamedTuple):
    """What an upstream calls what it made in a turn."""

    response_id: str | None
    """By which it can be continued there; None where it cannot."""
    calls: Sequence[str]
    """The ids of its calls, in order."""


class Dialect:
    """One upstream's, for one model: another could not read what this one sealed."""

    def __init__(self, upstream: str, model: str) -> None:
        named = hashlib.blake2b(f"{upstream}\0{model}".encode(), digest_size=8).hexdigest()
        self._items = f"responses/{named}"
        self._made = f"responses/{named}/made"

    def made(self, segment: Segment) -> Made | None:
        """Return what the upstream calls what it made in a turn, if it made it."""
        kept = segment.rendered.get(self._made)
        return Made(*orjson.loads(kept.data)) if kept else None

    def items(self, segment: Segment) -> bytes | None:
        """Return the fragment of a turn, if there is one."""
        kept = segment.rendered.get(self._items)
        return kept.data if kept else None

    def keep(self, segment: Segment, items: bytes) -> None:
        """Keep the fragment of a turn."""
        segment.rendered[self._items] = Rendered(items, 0)

    def renderings(self, items: bytes, made: Made) -> Renderings:
        """Return what is kept of a new turn. How many tokens that is, is not known here."""
        kept = orjson.dumps([made.response_id, made.calls])
        return {self._items: Rendered(items, 0), self._made: Rendered(kept, 0)}


class Told(NamedTuple):
    """A prompt for one upstream."""

    prompt: Prompt
    dialect: Dialect
    new: bytes
    """The input of this turn."""

    @classmethod
    def of(cls, prompt: Prompt, dialect: Dialect) -> Self:
        """Render what is new. Raises `ModelError` for what no model can be told."""
        return cls(prompt, dialect, _fragment(prompt.input, prompt.history, dialect))

    @property
    def rendered(self) -> Renderings:
        """What is kept of the input alone."""
        return self.renderings(Made(None, ()), ())

    @property
    def continued(self) -> str | None:
        """The upstream's id of the response that this turn continues, if it can be continued there."""
        made = self.dialect.made(self.prompt.history[-1]) if self.prompt.history else None
        return made.response_id if made else None

    def whole(self) -> Iterator[bytes]:
        """Yield the whole conversation; what of it never was rendered is rendered and kept."""
        history = self.prompt.history
        for place, segment in enumerate(history):
            if (items := self.dialect.items(segment)) is None:
                legible = self.prompt.legible(segment.items)
                items = _fragment(legible, history[:place], self.dialect)
                self.dialect.keep(segment, items)
            yield items
        yield self.new

    def renderings(self, made: Made, output: Iterable[bytes]) -> Renderings:
        """Return what is kept of the turn; `output` is what the upstream made, item by item."""
        return self.dialect.renderings(b",".join(filter(None, [self.new, *output])), made)


def kept(item: dict[str, Any]) -> bytes:
    """Return an item of the upstream's as it is sent back, without what is not for a model."""
    for part in item.get("content") or ():
        part.pop("logprobs", None)
    return orjson.dumps(item)


def _fragment(
    items: Iterable[items_pb2.Item], before: Sequence[Segment], dialect: Dialect
) -> bytes:
    told = [_legible(item) for item in items if _is_told(item)]
    calls = _calls(told, before, dialect)
    return b",".join(json_codec.encode(_answering(item, calls)) for item in told)


def _is_told(item: items_pb2.Item) -> bool:
    """Leave out tools, which stand elsewhere in a request, and thoughts of which nothing is left."""
    kind = item.WhichOneof("kind")
    if kind in _ILLEGIBLE:
        raise ModelError("invalid_prompt", f"This model cannot read items of type '{kind}'.")
    if kind == "reasoning":
        return bool(item.reasoning.content or item.reasoning.encrypted_content)
    return kind not in {"additional_tools", None}


def _legible(item: items_pb2.Item) -> items_pb2.Item:
    """Leave out what we sealed ourselves: it stands there opened. What others sealed stays."""
    reasoning = item.reasoning
    if not (reasoning.content and reasoning.encrypted_content.startswith(MARK)):
        return item
    opened = items_pb2.Item()
    opened.CopyFrom(item)
    opened.reasoning.ClearField("encrypted_content")
    return opened


def _answering(item: items_pb2.Item, calls: Mapping[str, str]) -> items_pb2.Item:
    """Return an output under the upstream's id of its call."""
    kind = item.WhichOneof("kind")
    if kind not in _OUTPUTS or (theirs := calls.get(getattr(item, kind).call_id)) is None:
        return item
    answering = items_pb2.Item()
    answering.CopyFrom(item)
    getattr(answering, kind).call_id = theirs
    return answering


def _calls(
    items: Iterable[items_pb2.Item], before: Sequence[Segment], dialect: Dialect
) -> Mapping[str, str]:
    """Return the upstream's ids of the calls that outputs among items answer, by ours.

    Turns are looked through from the newest back, until all calls are found: as a rule one.
    """
    ties = [tied for tied in map(tie, items) if tied]
    called_here = {tied.call_id for tied in ties if not tied.answers}
    wanted = {tied.call_id for tied in ties if tied.answers} - called_here
    found: dict[str, str] = {}
    for segment in reversed(before):
        if wanted <= found.keys():
            break
        if (made := dialect.made(segment)) and made.calls:
            ours = _call_ids(segment)[-len(made.calls) :]
            found = dict(zip(ours, made.calls, strict=False)) | found
    return found


def _call_ids(segment: Segment) -> list[str]:
    kinds = ((item, item.WhichOneof("kind")) for item in segment.items)
    return [getattr(item, kind).call_id for item, kind in kinds if kind in _CALLS]
