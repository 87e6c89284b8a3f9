"""How a simulated model reads: items as lines of text, and a prefix cache like that of real servers."""

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from service.backends import CallText, CustomCallBegins, FunctionCallBegins, RefusalText, Text
from service.backends.simulator.acts import Spoken
from service.conversation import Rendered, Segment
from turnwire.v1 import items_pb2, responses_pb2

DIALECT = "simulator"
Line: TypeAlias = tuple[str, str]  # who says it, and what


class Reading(NamedTuple):
    """A prompt that was computed."""

    tenant: str
    before: Sequence[Rendered]
    """Instructions and tools, then each turn of the history."""
    lines: Sequence[Line]
    """What is new."""
    tokens: int
    cached: int

    @property
    def uncached(self) -> int:
        """How many tokens were not in the cache."""
        return self.tokens - self.cached


class PrefixCache:
    """Knows by content which prefixes were computed, salted per tenant; forgets the oldest.

    History is known by whole turns, what is new by single items: who resends a conversation in
    full finds it as much cached as who continues it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[int, None] = OrderedDict()

    def read(self, tenant: str, before: Sequence[Rendered], lines: Sequence[Line]) -> Reading:
        """Compute a prompt, counting what at its beginning was known."""
        prompt = [*before, *_pieces(lines)]
        keys = _chain(tenant, prompt)
        known = itertools.takewhile(lambda key: key in self._known, keys)
        cached = sum(piece.tokens for piece, _ in zip(prompt, known, strict=False))
        self._keep(keys)
        return Reading(tenant, before, lines, sum(piece.tokens for piece in prompt), cached)

    def keep(self, reading: Reading, spoken: Sequence[Line]) -> None:
        """Remember what was generated, both for who continues and for who resends."""
        turn = [*reading.lines, *spoken]
        self._keep(_chain(reading.tenant, [*reading.before, rendered(turn)]))
        self._keep(_chain(reading.tenant, [*reading.before, *_pieces(turn)]))

    def _keep(self, keys: Iterable[int]) -> None:
        for key in keys:
            self._known[key] = None
            self._known.move_to_end(key)
        while len(self._known) > self._size:
            self._known.popitem(last=False)


def _chain(tenant: str, pieces: Iterable[Rendered]) -> list[int]:
    """Return a key for each prefix. Python keeps the hash of bytes: old pieces cost nothing."""
    keys = [hash(tenant)]
    for piece in pieces:
        keys.append(hash((keys[-1], piece.data)))
    return keys[1:]


def preamble(settings: responses_pb2.Settings) -> Rendered:
    """Render what precedes the conversation: instructions and tools."""
    tools = b"".join(tool.SerializeToString(deterministic=True) for tool in settings.tools)
    lines: list[Line] = [
        ("instructions", settings.instructions),
        *lines_of(settings.instruction_items),
    ]
    return _counted(rendered(lines).data + tools)


def history(segment: Segment) -> Rendered:
    """Return an earlier turn, rendered now if it never was."""
    if DIALECT not in segment.rendered:
        segment.rendered[DIALECT] = rendered(lines_of(segment.items))
    return segment.rendered[DIALECT]


def rendered(lines: Iterable[Line]) -> Rendered:
    """Render items, so that a turn reads the same as it was said and as it was kept."""
    pieces = list(_pieces(lines))
    return Rendered(b"".join(piece.data for piece in pieces), sum(piece.tokens for piece in pieces))


def _pieces(lines: Iterable[Line]) -> Iterator[Rendered]:
    for speaker, said in itertools.groupby(lines, key=lambda line: line[0]):
        text = "".join(text for _, text in said)
        yield _counted(f"<{speaker}>{text}\n".encode())


def _counted(data: bytes) -> Rendered:
    return Rendered(data, -(-len(data) // 4))


def lines_of(items: Iterable[items_pb2.Item]) -> list[Line]:
    """Return what items say, line by line."""
    return [line for item in items if (line := _line(item))]


def _line(item: items_pb2.Item) -> Line | None:
    """Return what an item says. What a model thought is not read again."""
    match kind := item.WhichOneof("kind"):
        case "message":
            return item.message.role, item.message.content_text or _text(item.message.content)
        case "function_call":
            return f"call {item.function_call.name}", item.function_call.arguments
        case "custom_tool_call":
            return f"call {item.custom_tool_call.name}", item.custom_tool_call.input
        case "function_call_output" | "custom_tool_call_output":
            returned = getattr(item, kind)
            return "tool", returned.output_text or _text(returned.output)
        case "other_json":
            return "other", item.other_json
    return None


def _text(parts: Iterable[items_pb2.ContentPart]) -> str:
    return "".join(
        part.input_text.text or part.output_text.text or part.refusal.refusal for part in parts
    )


def spoken_lines(spoken: Iterable[Spoken]) -> list[Line]:
    """Return what the items that this output becomes will say."""
    lines: list[Line] = []
    for act in spoken:
        match act:
            case Text(text) | RefusalText(text):
                lines.append(("assistant", text))
            case FunctionCallBegins(name) | CustomCallBegins(name):
                lines.append((f"call {name}", ""))
            case CallText(text):
                lines.append((lines[-1][0], text))
    return lines
