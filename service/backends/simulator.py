"""A deterministic model server for tests and load, configured by name and never chosen silently.

It answers with the last user text or tool output, calls a tool where the request demands one, and
does as it is told by a last user or developer message of this form:

    #sim <directive> [ ; <directive>]...

    text <n>                       say n words
    reasoning <n>                  think n words
    refuse <words>                 refuse with these words
    call <name> [<arguments>]      call a function; arguments go out as they are, broken ones too
    custom <name> [<input>]        call a custom tool
    stall <seconds>                send what there is, then nothing for a while
    length                         stop as if the limit on output were reached
    fail <code> [after <n> words]  fail as a model server, at once or after n words

Each of the first five is an item of its own. Prompts are counted at four bytes a token; output at
a word, or twelve characters of a longer one.
"""

import asyncio
import itertools
import json
import math
import re
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from service.backends import (
    CallText,
    CustomCallBegins,
    Finished,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    Prompt,
    ReasoningText,
    RefusalText,
    Text,
)
from service.conversation import Rendered, Segment
from service.errors import ModelError
from turnwire.v1 import items_pb2, responses_pb2

_DIALECT = "simulator"
_MARK = "#sim "
_SEPARATOR = " ; "
_MOST_WORDS = 1_000_000  # a directive is a client's word: it must not ask for all memory
_MOST_SECONDS = 3600.0
_LONGEST_EXAMPLE = 100  # nor may a schema
_DEEPEST_EXAMPLE = 16
_PIECE = re.compile(r"\s*\S{1,12}|\s+\Z")
_TOKENS = (Text, RefusalText, ReasoningText, FunctionCallBegins, CustomCallBegins, CallText)
_VOCABULARY = ("every", "turn", "carries", "only", "what", "is", "new", "and", "nothing", "else")


class Stall(NamedTuple):
    """Send what there is, then nothing for a while."""

    seconds: float


class Cut(NamedTuple):
    """Stop as if the limit on output were reached."""


class Fail(NamedTuple):
    """Fail as a model server."""

    code: str


Act: TypeAlias = Produced | Stall | Cut | Fail
_Spoken: TypeAlias = Produced | Stall | Fail
_Line: TypeAlias = tuple[str, str]  # who says it, and what
_Reason: TypeAlias = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How fast the simulated model is. As it stands it answers at once, in a single batch."""

    first_token: float = 0.0
    """Seconds before anything is said."""
    prefill: float = 0.0
    """Seconds for each token of the prompt that is not in the prefix cache."""
    tokens_per_second: float = 0.0
    """How fast it generates; 0 is at once."""
    tokens_per_batch: int = 1
    """How many tokens one read yields, unless it generates at once."""


class Script:
    """Directives for turn after turn, without `#sim`. After the last it answers as usual."""

    def __init__(self, *turns: str) -> None:
        self._turns = iter(turns)

    def next(self) -> str | None:
        """Return the directives for the next turn, if there are any."""
        return next(self._turns, None)


class Simulator:
    """The simulated model server, with a prefix cache like that of real ones."""

    kind = "simulator"
    dialect = _DIALECT

    def __init__(
        self,
        models: Sequence[str] = ("simulator",),
        *,
        speed: Speed | None = None,
        script: Script | None = None,
        cached_prefixes: int = 100_000,
    ) -> None:
        self.models = tuple(models)
        self.running = 0
        """Turns that are being generated."""
        self.cancelled = 0
        """Turns that were given up before they had finished."""
        self.prefilled_tokens = 0
        """Tokens of prompts that were not in the cache."""
        self._speed = speed or Speed()
        self._script = script or Script()
        self._cache = _PrefixCache(cached_prefixes)

    async def start(self) -> None:
        """Nothing needs to be got ready."""

    async def stop(self) -> None:
        """Nothing is held."""

    async def prepare(self, prompt: Prompt) -> Rendered:
        """Compute the prompt, so that the turn that continues it finds it cached."""
        reading = self._read(prompt)
        self._cache.keep(reading, [])
        await _pause(self._speed.prefill * reading.uncached)
        return _rendered(reading.lines)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        """Generate what the prompt asks for. Raises `ModelError` where it is told to fail."""
        over = False
        due = asyncio.get_running_loop().time()
        self.running += 1
        try:
            for seconds, batch in self._batches(prompt):
                due += seconds
                await _pause(seconds and due - asyncio.get_running_loop().time())
                if batch:
                    over = isinstance(batch[-1], Finished)
                    yield batch
        except (GeneratorExit, asyncio.CancelledError):
            self.cancelled += not over
            raise
        finally:
            self.running -= 1

    def _batches(self, prompt: Prompt) -> Iterator[tuple[float, Sequence[Produced]]]:
        """Yield the turn's batches, each with the seconds that go by before it."""
        directives = self._script.next()
        acts = parse(directives) if directives is not None else _answer(prompt)
        reading = self._read(prompt)
        yield self._speed.first_token + self._speed.prefill * reading.uncached, []
        spoken, reason = _limited(acts, prompt.settings)
        yield from _paced([*spoken, self._finished(reading, spoken, reason)], self._speed)

    def _read(self, prompt: Prompt) -> "_Reading":
        """Compute the prompt. Of its history only what never was rendered is rendered."""
        before = [_preamble(prompt.settings), *map(_history, prompt.history)]
        lines = _lines(prompt.input)
        reading = self._cache.read(prompt.tenant, before, lines)
        self.prefilled_tokens += reading.uncached
        return reading

    def _finished(
        self, reading: "_Reading", spoken: Sequence["_Spoken"], reason: _Reason
    ) -> Finished:
        self._cache.keep(reading, spoken_lines := _spoken_lines(spoken))
        return Finished(
            reason=reason,
            input_tokens=reading.tokens,
            cached_tokens=reading.cached,
            output_tokens=sum(isinstance(act, _TOKENS) for act in spoken),
            reasoning_tokens=sum(isinstance(act, ReasoningText) for act in spoken),
            rendered=_rendered([*reading.lines, *spoken_lines]),
        )


# What it says


def parse(directives: str) -> list[Act]:
    """Parse directives. Raises `ModelError`, which names the one that is not understood."""
    acts: list[Act] = []
    for directive in directives.split(_SEPARATOR):
        verb, _, rest = directive.strip().partition(" ")
        if verb in _ITEMS and acts:
            acts.append(ItemEnds())
        try:
            acts += _DIRECTIVES[verb](rest.strip())
        except (KeyError, ValueError) as error:
            message = f"The simulator does not understand the directive '{directive.strip()}'."
            raise ModelError("invalid_prompt", message) from error
    return acts


def _speak(kind: Callable[[str], Produced], text: str) -> list[Act]:
    return [kind(piece) for piece in _PIECE.findall(text)]


def _words(count: str) -> str:
    if not count.isdecimal() or int(count) > _MOST_WORDS:
        raise ValueError(count)
    return " ".join(itertools.islice(itertools.cycle(_VOCABULARY), int(count)))


def _call(rest: str) -> list[Act]:
    name, arguments = _named(rest)
    return [FunctionCallBegins(name), *_speak(CallText, arguments or "{}")]


def _custom(rest: str) -> list[Act]:
    name, text = _named(rest)
    return [CustomCallBegins(name), *_speak(CallText, text)]


def _named(rest: str) -> tuple[str, str]:
    name, _, text = rest.partition(" ")
    if not name:
        raise ValueError("a tool has a name")
    return name, text.strip()


def _stall(seconds: str) -> list[Act]:
    if not 0 <= float(seconds) <= _MOST_SECONDS:
        raise ValueError(seconds)
    return [Stall(float(seconds))]


def _cut(rest: str) -> list[Act]:
    if rest:
        raise ValueError(rest)
    return [Cut()]


def _fail(rest: str) -> list[Act]:
    told = re.fullmatch(r"(\S+)(?: +after +(\d+) +words?)?", rest)
    if told is None:
        raise ValueError(rest)
    return [*_speak(Text, _words(told[2] or "0")), Fail(told[1])]


_ITEMS: dict[str, Callable[[str], list[Act]]] = {
    "text": lambda count: _speak(Text, _words(count)),
    "reasoning": lambda count: _speak(ReasoningText, _words(count)),
    "refuse": lambda words: _speak(RefusalText, words),
    "call": _call,
    "custom": _custom,
}
_DIRECTIVES = {**_ITEMS, "stall": _stall, "length": _cut, "fail": _fail}


def _answer(prompt: Prompt) -> list[Act]:
    """Decide what to say: what the client scripted, else what it demands, else what it said."""
    speaker, said = _last_said(prompt)
    if speaker != "tool" and said.startswith(_MARK):
        return parse(said.removeprefix(_MARK))
    if tool := _demanded_tool(prompt.settings):
        return _example_call(tool)
    if prompt.settings.text.format.HasField("json_schema"):
        return _speak(Text, _example(prompt.settings.text.format.json_schema.schema_json))
    return _speak(Text, said)


def _last_said(prompt: Prompt) -> _Line:
    """Return what was said last and not by a model; looks only as far back as it must."""
    turns = itertools.chain([prompt.input], (s.items for s in reversed(prompt.history)))
    for line in itertools.chain.from_iterable(reversed(_lines(items)) for items in turns):
        if line[0] in {"user", "developer", "tool"}:
            return line
    return "user", "Nothing was said."


def _demanded_tool(settings: responses_pb2.Settings) -> items_pb2.Tool | None:
    """Return the tool that must be called, even if it was not declared."""
    choice = settings.tool_choice
    declared = {_name(tool): tool for tool in _callable_tools(settings.tools)}
    match choice.WhichOneof("kind"):
        case "function":
            undeclared = items_pb2.FunctionTool(name=choice.function.name)
            return declared.get(undeclared.name, items_pb2.Tool(function=undeclared))
        case "custom":
            return items_pb2.Tool(custom=items_pb2.CustomTool(name=choice.custom.name))
        case "allowed_tools" if choice.allowed_tools.mode == "required":
            allowed = map(json.loads, choice.allowed_tools.tools_json)
            names = [tool.get("name") for tool in allowed if isinstance(tool, dict)]
            return next((declared[name] for name in names if name in declared), None)
    required = settings.tool_choice_mode == "required"
    return next(iter(declared.values()), None) if required else None


def _callable_tools(tools: Iterable[items_pb2.Tool]) -> Iterator[items_pb2.Tool]:
    for tool in tools:
        if tool.WhichOneof("kind") == "namespace":
            yield from _callable_tools(tool.namespace.tools)
        elif tool.WhichOneof("kind") in {"function", "custom"}:
            yield tool


def _name(tool: items_pb2.Tool) -> str:
    return tool.custom.name if tool.HasField("custom") else tool.function.name


def _example_call(tool: items_pb2.Tool) -> list[Act]:
    if tool.HasField("custom"):
        return [CustomCallBegins(tool.custom.name), CallText("text")]
    arguments = _example(tool.function.parameters_json or "{}")
    return [FunctionCallBegins(tool.function.name), *_speak(CallText, arguments)]


def _example(schema_json: str) -> str:
    """Write the smallest JSON that a schema accepts. Patterns and formats are not looked at."""
    try:
        schema = json.loads(schema_json)
        example = _value(schema, schema, _DEEPEST_EXAMPLE)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        raise ModelError("invalid_prompt", "The simulator cannot follow a JSON Schema.") from error
    return json.dumps({} if example is None else example)


def _value(schema: Any, root: Any, depth: int) -> Any:
    """Return the first value that comes to mind, for as deep as it may be."""
    if not depth:
        raise ValueError("too deep")
    match schema:
        case (
            {"const": value}
            | {"default": value}
            | {"enum": [value, *_]}
            | {"examples": [value, *_]}
        ):
            return value
        case {"$ref": str(reference)}:
            return _value(_referred(reference, root), root, depth - 1)
        case {"anyOf": [first, *_]} | {"oneOf": [first, *_]} | {"allOf": [first, *_]}:
            return _value(first, root, depth - 1)
        case {"type": [first, *_]}:
            return _value({**schema, "type": first}, root, depth - 1)
    return _typed_value(schema, root, depth)


def _typed_value(schema: Any, root: Any, depth: int) -> Any:
    match schema:
        case {"type": "object"} | {"properties": _}:
            properties = schema.get("properties", {})
            names = schema.get("required", ())
            return {name: _value(properties.get(name), root, depth - 1) for name in names}
        case {"type": "array"}:
            count = min(schema.get("minItems", 0), _LONGEST_EXAMPLE)
            return [_value(schema.get("items"), root, depth - 1) for _ in range(count)]
        case {"type": str(scalar)}:
            return _scalar(scalar, schema)
    return None


def _referred(reference: str, root: Any) -> Any:
    for name in reference.removeprefix("#").strip("/").split("/"):
        root = root[name.replace("~1", "/").replace("~0", "~")] if name else root
    return root


def _scalar(kind: str, schema: Any) -> str | float | bool | None:
    match kind:
        case "string":
            length = min(schema.get("minLength", 0), _LONGEST_EXAMPLE)
            return "text".ljust(length, ".")[: schema.get("maxLength")]
        case "integer":
            return _number(schema, schema.get("multipleOf", 1))
        case "number":
            return _number(schema, schema.get("multipleOf"))
        case "boolean":
            return False
    return None


def _number(schema: Any, step: float | None) -> float:
    value: float
    match schema:
        case {"minimum": low}:
            value = low
        case {"exclusiveMinimum": low}:
            value = math.floor(low) + 1
        case {"maximum": high}:
            value = min(0, math.floor(high))
        case {"exclusiveMaximum": high}:
            value = min(0, math.ceil(high) - 1)
        case _:
            value = 0
    return math.ceil(value / step) * step if step else value


# How it says it


def _limited(
    acts: Iterable[Act], settings: responses_pb2.Settings
) -> tuple[list[_Spoken], _Reason]:
    """Return what the limit on output leaves of a turn, and why the turn ends there."""
    left = settings.max_output_tokens if settings.HasField("max_output_tokens") else math.inf
    spoken: list[_Spoken] = []
    for act in acts:
        left -= isinstance(act, _TOKENS)
        if isinstance(act, Cut) or left < 0:
            return spoken, "length"
        spoken.append(act)
    return spoken, "stop"


def _paced(acts: Sequence[_Spoken], speed: Speed) -> Iterator[tuple[float, Sequence[Produced]]]:
    """Gather batches as the speed says, each with the seconds it took to generate."""
    at_once = not speed.tokens_per_second
    size = len(acts) if at_once else speed.tokens_per_batch
    seconds = 0.0 if at_once else 1 / speed.tokens_per_second
    batch: list[Produced] = []
    for act in acts:
        if isinstance(act, Stall | Fail) or len(batch) >= size:
            yield len(batch) * seconds, batch
            batch = []
        if isinstance(act, Fail):
            raise ModelError(act.code, "The simulator was told to fail.")
        if isinstance(act, Stall):
            yield act.seconds, []
        else:
            batch.append(act)
    yield len(batch) * seconds, batch


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)


# How it reads


class _Reading(NamedTuple):
    """A prompt that was computed."""

    tenant: str
    before: Sequence[Rendered]
    """Instructions and tools, then each turn of the history."""
    lines: Sequence[_Line]
    """What is new."""
    tokens: int
    cached: int

    @property
    def uncached(self) -> int:
        """How many tokens were not in the cache."""
        return self.tokens - self.cached


class _PrefixCache:
    """Knows by content which prefixes were computed, salted per tenant; forgets the oldest.

    History is known by whole turns, what is new by single items: who resends a conversation in
    full finds it as much cached as who continues it.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: OrderedDict[int, None] = OrderedDict()

    def read(self, tenant: str, before: Sequence[Rendered], lines: Sequence[_Line]) -> _Reading:
        """Compute a prompt, counting what at its beginning was known."""
        prompt = [*before, *_pieces(lines)]
        keys = _chain(tenant, prompt)
        known = itertools.takewhile(lambda key: key in self._known, keys)
        cached = sum(piece.tokens for piece, _ in zip(prompt, known, strict=False))
        self._keep(keys)
        return _Reading(tenant, before, lines, sum(piece.tokens for piece in prompt), cached)

    def keep(self, reading: _Reading, spoken: Sequence[_Line]) -> None:
        """Remember what was generated, both for who continues and for who resends."""
        turn = [*reading.lines, *spoken]
        self._keep(_chain(reading.tenant, [*reading.before, _rendered(turn)]))
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


def _preamble(settings: responses_pb2.Settings) -> Rendered:
    tools = b"".join(tool.SerializeToString(deterministic=True) for tool in settings.tools)
    lines = [("instructions", settings.instructions), *_lines(settings.instruction_items)]
    return _counted(_rendered(lines).data + tools)


def _history(segment: Segment) -> Rendered:
    if _DIALECT not in segment.rendered:
        segment.rendered[_DIALECT] = _rendered(_lines(segment.items))
    return segment.rendered[_DIALECT]


def _rendered(lines: Iterable[_Line]) -> Rendered:
    """Render items, so that a turn reads the same as it was said and as it was kept."""
    pieces = list(_pieces(lines))
    return Rendered(b"".join(piece.data for piece in pieces), sum(piece.tokens for piece in pieces))


def _pieces(lines: Iterable[_Line]) -> Iterator[Rendered]:
    for speaker, said in itertools.groupby(lines, key=lambda line: line[0]):
        text = "".join(text for _, text in said)
        yield _counted(f"<{speaker}>{text}\n".encode())


def _counted(data: bytes) -> Rendered:
    return Rendered(data, -(-len(data) // 4))


def _lines(items: Iterable[items_pb2.Item]) -> list[_Line]:
    return [line for item in items if (line := _line(item))]


def _line(item: items_pb2.Item) -> _Line | None:
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


def _spoken_lines(spoken: Iterable[_Spoken]) -> list[_Line]:
    """Return what the items that this output becomes will say."""
    lines: list[_Line] = []
    for act in spoken:
        match act:
            case Text(text) | RefusalText(text):
                lines.append(("assistant", text))
            case FunctionCallBegins(name) | CustomCallBegins(name):
                lines.append((f"call {name}", ""))
            case CallText(text):
                lines.append((lines[-1][0], text))
    return lines
