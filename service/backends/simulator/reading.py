"""How a simulated model reads: items as lines of text, and a prefix cache like that of real servers."""

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from service.backends import (
    CallText,
    CustomCallBegins,
    FunctionCallBegins,
    ItemEnds,
    Prompt,
    RefusalText,
    Text,
)
from service.backends.simulator.acts import THOUGHTS, Spoken
from service.backends.tools import joined_name
from service.backends.window import Window, most_tokens, turns_of
from service.conversation import Rendered
from service.errors import ModelError
from turnwire.v1 import items_pb2

DIALECT = "simulator"
Line: TypeAlias = tuple[str, str]
"""An item: who says it, and what."""
_PIECE = struct.Struct("<qI")
"""An item, rendered: what recognises it, and how many tokens it has."""


class Told(NamedTuple):
    """A prompt in the form in which the model is told it."""

    pieces: Sequence[Rendered]
    """What precedes the conversation, then turn by turn, the input of this turn last."""
    new: Rendered
    """The input of this turn, however much of it is told."""
    window: Window | None = None
    """What is told of the conversation, where that is not all."""

    @property
    def tokens(self) -> int:
        """How long it is."""
        return sum(piece.tokens for piece in self.pieces)

    def items(self, prompt: Prompt) -> int:
        """Return how many of a prompt's items are told."""
        return sum(map(len, self.window.turns if self.window else turns_of(prompt)))


class Reading(NamedTuple):
    """A prompt that was computed."""

    key: int
    """Stands for all of it."""
    tokens: int
    cached: int

    @property
    def uncached(self) -> int:
        """How many tokens were not in the cache."""
        return self.tokens - self.cached


class PrefixCache:
    """Knows by content which prefixes were computed, salted per tenant; forgets the oldest.

    It goes by items: who resends a conversation finds it as much cached as who continues it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[int, None] = OrderedDict()

    def read(self, tenant: str, told: Told) -> Reading:
        """Compute a prompt, counting what at its beginning was known."""
        key, tokens, cached = _hash(tenant.encode()), 0, 0
        data = b"".join([piece.data for piece in told.pieces])
        for piece, size in _PIECE.iter_unpack(data):
            key = hash((key, piece))
            cached += size if key in self._known and cached == tokens else 0
            tokens += size
            self._keep(key)
        return Reading(key, tokens, cached)

    def keep(self, reading: Reading, spoken: Rendered) -> None:
        """Remember what was generated after a prompt."""
        key = reading.key
        for piece, _ in _PIECE.iter_unpack(spoken.data):
            key = hash((key, piece))
            self._keep(key)

    def _keep(self, key: int) -> None:
        self._known[key] = None
        self._known.move_to_end(key)
        if len(self._known) > self._size:
            self._known.popitem(last=False)


def told(prompt: Prompt) -> Told:
    """Render a prompt. Of its history only what never was rendered is rendered."""
    new = rendered(lines_of(prompt.input))
    return Told([_preamble(prompt), *_history(prompt), new], new)


def shortened(prompt: Prompt, told: Told, context: int) -> Told:
    """Leave out the oldest of a conversation, so that there is room to answer in its context."""
    most = most_tokens(prompt.settings, context)
    if told.tokens <= most:
        return told
    preamble, *turns = told.pieces
    window = Window(prompt, [turn.tokens for turn in turns], context)
    left = told
    while (excess := left.tokens - most) > 0 and window.drop(excess):
        pieces = [preamble, *(rendered(lines_of(items)) for items in window.turns)]
        left = Told(pieces, told.new, window)
    return left


def _preamble(prompt: Prompt) -> Rendered:
    """Render what precedes the conversation: instructions and tools."""
    settings = prompt.settings
    tools = b"".join(tool.SerializeToString(deterministic=True) for tool in prompt.tools)
    items = b"".join(
        item.SerializeToString(deterministic=True) for item in settings.instruction_items
    )
    return _piece(settings.instructions.encode() + items + tools)


def _history(prompt: Prompt) -> Iterator[Rendered]:
    for segment in prompt.history:
        if DIALECT not in segment.rendered:
            segment.rendered[DIALECT] = rendered(lines_of(prompt.legible(segment.items)))
        yield segment.rendered[DIALECT]


def rendered(lines: Iterable[Line]) -> Rendered:
    """Render items, so that each reads the same as it was said and as it was kept."""
    pieces = [_piece(f"<{speaker}>{said}\n".encode()) for speaker, said in lines]
    return Rendered(b"".join(piece.data for piece in pieces), sum(piece.tokens for piece in pieces))


def _piece(text: bytes) -> Rendered:
    tokens = -(-len(text) // 4)
    return Rendered(_PIECE.pack(_hash(text), tokens), tokens)


def _hash(data: bytes) -> int:
    """Tell contents apart, the same in every process: what was rendered is kept with conversations."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), signed=True)


def lines_of(items: Iterable[items_pb2.Item]) -> list[Line]:
    """Return what items say, line by line."""
    return [line for item in items if (line := _line(item))]


def _line(item: items_pb2.Item) -> Line | None:
    """Return what an item says. What a model thought is not read again."""
    match kind := item.WhichOneof("kind"):
        case "message":
            return item.message.role, item.message.content_text or _text(item.message.content)
        case "function_call":
            called = item.function_call
            return _caller(called.namespace, called.name), called.arguments
        case "custom_tool_call":
            custom = item.custom_tool_call
            return _caller(custom.namespace, custom.name), custom.input
        case "function_call_output" | "custom_tool_call_output":
            returned = getattr(item, kind)
            return "tool", returned.output_text or _text(returned.output)
        case "other_json":
            return "other", item.other_json
        case "item_reference" | "compaction" | "compaction_trigger":  # not legible
            raise ModelError("invalid_prompt", f"This model cannot read items of type '{kind}'.")
    return None


def _caller(namespace: str | None, name: str) -> str:
    return f"call {joined_name(namespace, name)}"


def _text(parts: Iterable[items_pb2.ContentPart]) -> str:
    return "".join(
        part.input_text.text or part.output_text.text or part.refusal.refusal for part in parts
    )


def spoken_lines(spoken: Iterable[Spoken]) -> list[Line]:
    """Return what the items that this output becomes will say."""
    items: list[tuple[str, list[str]]] = []
    speaker = ""
    for act in spoken:
        match act:
            case Text(text) | RefusalText(text):
                if speaker != "assistant":
                    items.append((speaker := "assistant", []))
                items[-1][1].append(text)
            case FunctionCallBegins(name, namespace) | CustomCallBegins(name, namespace):
                items.append((speaker := _caller(namespace, name), []))
            case CallText(text):
                items[-1][1].append(text)
            case _ if isinstance(act, (ItemEnds, *THOUGHTS)):
                speaker = ""
    return [(speaker, "".join(said)) for speaker, said in items]
