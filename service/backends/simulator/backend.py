"""A deterministic model server for tests and load, configured by name and never chosen silently.

It answers with the last user text or tool output, calls a tool where the request demands one, and
does as it is told by a last user or developer message that begins with `#sim `: what may follow is
the grammar of `service.backends.simulator.script`. Prompts are counted at four bytes a token; output
at a word, or twelve characters of a longer one. It reads the text of a message and of no other part.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from service.backends import (
    Capabilities,
    CustomCallBegins,
    Finished,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    Prompt,
    Text,
)
from service.backends.simulator.acts import (
    THOUGHTS,
    TOKENS,
    Act,
    Cut,
    Fail,
    Slow,
    Spoken,
    Stall,
    Tell,
    scored,
    speak,
)
from service.backends.simulator.answer import answer
from service.backends.simulator.reading import (
    DIALECT,
    PrefixCache,
    Reading,
    Told,
    rendered,
    shortened,
    spoken_lines,
    told,
)
from service.backends.simulator.script import Script, parse
from service.backends.tools import Toolbox, one_call_only
from service.conversation import Rendered, Renderings
from service.errors import ModelError

_CONTROLS = (Stall, Slow, Fail)
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
    capabilities = Capabilities()

    def __init__(
        self,
        models: Sequence[str] = ("simulator",),
        *,
        speed: Speed | None = None,
        script: Script | None = None,
        cached_prefixes: int = 100_000,
        context_tokens: int | None = None,
    ) -> None:
        """`context_tokens` is how long prompt and answer may be together: unbounded, if left out."""
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
        self._context = context_tokens

    async def start(self) -> None:
        """Nothing needs to be got ready."""

    async def stop(self) -> None:
        """Nothing is held."""

    async def check(self) -> None:
        """It is always well."""

    async def prepare(self, prompt: Prompt) -> Renderings:
        """Compute the prompt, so that the turn that continues it finds it cached."""
        prompted = self._told(prompt)
        reading = self._read(prompt, prompted)
        await _pause(self._speed.prefill * reading.uncached)
        return {DIALECT: prompted.new}

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
        acts = parse(directives) if directives is not None else answer(prompt)
        prompted = self._told(prompt)
        reading = self._read(prompt, prompted)
        yield self._speed.first_token + self._speed.prefill * reading.uncached, []
        if one_call_only(prompt.settings):
            acts = _with_one_call(acts)
        most = self._most_output(prompt, prompted)
        spoken, reason = _limited(_informed(acts, prompt, prompted), most)
        finished = self._finished(prompted, reading, spoken, reason)
        if prompt.logprobs:
            spoken = scored(spoken, prompt.settings)
        yield from _paced([*spoken, finished], self._speed)

    def _told(self, prompt: Prompt) -> Told:
        """Render a prompt. Raises `ModelError` if it leaves no room for an answer."""
        prompted = told(prompt)
        if self._context is None:
            return prompted
        if prompt.settings.truncation == "auto":
            prompted = shortened(prompt, prompted, self._context)
        if prompted.tokens >= self._context:
            raise ModelError(
                "context_length_exceeded",
                f"The conversation does not fit the model's context of {self._context} tokens.",
            )
        return prompted

    def _read(self, prompt: Prompt, prompted: Told) -> Reading:
        """Compute the prompt."""
        reading = self._cache.read(prompt.tenant, prompted)
        self.prefilled_tokens += reading.uncached
        return reading

    def _most_output(self, prompt: Prompt, prompted: Told) -> float:
        """Return how many tokens an answer may have: what is asked for, as far as there is room."""
        settings = prompt.settings
        asked = settings.max_output_tokens if settings.HasField("max_output_tokens") else math.inf
        return asked if self._context is None else min(asked, self._context - prompted.tokens)

    def _finished(
        self, prompted: Told, reading: Reading, spoken: Sequence[Spoken], reason: _Reason
    ) -> Finished:
        said = rendered(spoken_lines(spoken))
        self._cache.keep(reading, said)
        new = prompted.new
        return Finished(
            reason=reason,
            input_tokens=reading.tokens,
            cached_tokens=reading.cached,
            output_tokens=sum(isinstance(act, TOKENS) for act in spoken),
            reasoning_tokens=sum(isinstance(act, THOUGHTS) for act in spoken),
            rendered={DIALECT: Rendered(new.data + said.data, new.tokens + said.tokens)},
        )


def _informed(acts: Iterable[Act], prompt: Prompt, prompted: Told) -> Iterator[Spoken | Cut]:
    """Put into words what the model is to say of what it was told."""
    for act in acts:
        match act:
            case Tell("tools"):
                yield from speak(Text, " ".join(Toolbox(prompt.tools).tools))
            case Tell():
                yield from speak(Text, str(prompted.items(prompt)))
            case _:
                yield act


def _with_one_call(acts: Iterable[Act]) -> list[Act]:
    """Return a turn that ends after its first call."""
    kept: list[Act] = []
    called = False
    for act in acts:
        if called and isinstance(act, ItemEnds):
            break
        called = called or isinstance(act, FunctionCallBegins | CustomCallBegins)
        kept.append(act)
    return kept


def _limited(acts: Iterable[Spoken | Cut], left: float) -> tuple[list[Spoken], _Reason]:
    """Return what so many tokens of output leave of a turn, and why the turn ends there."""
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
        if isinstance(act, _CONTROLS) or len(batch) >= size:
            yield len(batch) * seconds, batch
            batch = []
        match act:
            case Fail():
                raise ModelError(act.code, "The simulator was told to fail.")
            case Stall():
                yield act.seconds, []
            case Slow():
                size, seconds = 1, act.seconds
            case _:
                batch.append(act)
    yield len(batch) * seconds, batch


async def _pause(seconds: float) -> None:
    if seconds > 0:
        await asyncio.sleep(seconds)
