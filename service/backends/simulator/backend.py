"""A deterministic model server for tests and load, configured by name and never chosen silently.

It answers with the last user text or tool output, calls a tool where the request demands one, and
does as it is told by a last user or developer message that begins with `#sim `: what may follow is
the grammar of `service.backends.simulator.script`. Prompts are counted at four bytes a token; output
at a word, or twelve characters of a longer one.
"""

import asyncio
import itertools
import json
import math
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from service.backends import (
    CallText,
    CustomCallBegins,
    Finished,
    FunctionCallBegins,
    Produced,
    Prompt,
    ReasoningText,
    Text,
)
from service.backends.simulator.acts import TOKENS, Act, Cut, Fail, Spoken, Stall, speak
from service.backends.simulator.example import example
from service.backends.simulator.reading import (
    DIALECT,
    Line,
    PrefixCache,
    Reading,
    history,
    lines_of,
    preamble,
    rendered,
    spoken_lines,
)
from service.backends.simulator.script import Script, parse
from service.conversation import Rendered
from service.errors import ModelError
from turnwire.v1 import items_pb2, responses_pb2

_MARK = "#sim "
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


class Simulator:
    """The simulated model server, with a prefix cache like that of real ones."""

    kind = "simulator"
    dialect = DIALECT

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
        self._cache = PrefixCache(cached_prefixes)

    async def start(self) -> None:
        """Nothing needs to be got ready."""

    async def stop(self) -> None:
        """Nothing is held."""

    async def prepare(self, prompt: Prompt) -> Rendered:
        """Compute the prompt, so that the turn that continues it finds it cached."""
        reading = self._read(prompt)
        await _pause(self._speed.prefill * reading.uncached)
        return reading.new

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

    def _read(self, prompt: Prompt) -> Reading:
        """Compute the prompt. Of its history only what never was rendered is rendered."""
        before = [preamble(prompt.settings), *map(history, prompt.history)]
        new = rendered(lines_of(prompt.input))
        reading = self._cache.read(prompt.tenant, before, new)
        self.prefilled_tokens += reading.uncached
        return reading

    def _finished(self, reading: Reading, spoken: Sequence[Spoken], reason: _Reason) -> Finished:
        said = rendered(spoken_lines(spoken))
        self._cache.keep(reading, said)
        return Finished(
            reason=reason,
            input_tokens=reading.tokens,
            cached_tokens=reading.cached,
            output_tokens=sum(isinstance(act, TOKENS) for act in spoken),
            reasoning_tokens=sum(isinstance(act, ReasoningText) for act in spoken),
            rendered=Rendered(reading.new.data + said.data, reading.new.tokens + said.tokens),
        )


def _answer(prompt: Prompt) -> list[Act]:
    """Decide what to say: what the client scripted, else what it demands, else what it said."""
    speaker, said = _last_said(prompt)
    if speaker != "tool" and said.startswith(_MARK):
        return parse(said.removeprefix(_MARK))
    if tool := _demanded_tool(prompt.settings):
        return _example_call(tool)
    if prompt.settings.text.format.HasField("json_schema"):
        return speak(Text, example(prompt.settings.text.format.json_schema.schema_json))
    return speak(Text, said)


def _last_said(prompt: Prompt) -> Line:
    """Return what was said last and not by a model; looks only as far back as it must."""
    turns = itertools.chain([prompt.input], (s.items for s in reversed(prompt.history)))
    for line in itertools.chain.from_iterable(reversed(lines_of(items)) for items in turns):
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
    arguments = example(tool.function.parameters_json or "{}")
    return [FunctionCallBegins(tool.function.name), *speak(CallText, arguments)]


def _limited(acts: Iterable[Act], settings: responses_pb2.Settings) -> tuple[list[Spoken], _Reason]:
    """Return what the limit on output leaves of a turn, and why the turn ends there."""
    left = settings.max_output_tokens if settings.HasField("max_output_tokens") else math.inf
    spoken: list[Spoken] = []
    for act in acts:
        left -= isinstance(act, TOKENS)
        if isinstance(act, Cut) or left < 0:
            return spoken, "length"
        spoken.append(act)
    return spoken, "stop"


def _paced(acts: Sequence[Spoken], speed: Speed) -> Iterator[tuple[float, Sequence[Produced]]]:
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
