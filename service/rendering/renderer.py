"""Prompts as token ids, each part of them rendered once."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import structlog

from service.backends import Prompt
from service.backends.recent import Recent
from service.backends.tools import Toolbox
from service.backends.window import Window, most_tokens
from service.conversation import Rendered, Renderings
from service.rendering import Cycle, Message, Opening, Piece, Template, Tokenizer, Uncut
from service.rendering.encodings import Encoding, joined
from service.rendering.preambles import Preamble, key_of, opening_of
from service.rendering.proof import Anew, Proof, judge
from service.rendering.shelf import Shelf
from service.rendering.turns import Turns, asks, before_answer, thinks

log = structlog.get_logger(__name__)
T = TypeVar("T")

_LONG = 64 * 1024
"""Bytes of items: more are rendered in a thread, since everybody else would wait for them."""

_THOUGHT: Sequence[Message] = (
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "Because.", "reasoning_content": "Hm."},
)


class RenderedPrompt(NamedTuple):
    """A prompt in token ids."""

    toolbox: Toolbox
    opening: Opening
    told: Sequence[Rendered]
    """All that the model is told, up to where it answers: preamble, turns, new input, answer's opening."""
    new: Sequence[Rendered]
    """The input of this turn and the answer's opening, however much of them the model is told; nothing
    where turns cannot be told one by one."""
    changes: bool
    """Whether the input is told otherwise once the user speaks again."""

    @property
    def tokens(self) -> int:
        """How long it is."""
        return sum(part.tokens for part in self.told)


class _Missing(NamedTuple):
    """A turn that has to be rendered."""

    turn: int
    cycle: Cycle
    pieces: Sequence[Piece]
    asks: bool
    changes: bool
    """Whether it is told otherwise in the other cycle."""


class Renderer:
    """Renders the prompts of one model, for one kind of server."""

    def __init__(
        self, template: Template, tokenizer: Tokenizer, encoding: Encoding, proof: Proof
    ) -> None:
        self.encoding = encoding
        identity = f"{template.identity}\n{tokenizer.identity}".encode()
        self._shelf = Shelf(f"ids/{encoding.name}/{hashlib.sha256(identity).hexdigest()[:16]}")
        self._template = template
        self._tokenizer = tokenizer
        self._proof = proof
        self._preambles = Recent[Preamble]()
        self._forgets = template.additive and _forgets(template)
        self._closes: Sequence[int] = ()

    @property
    def dialect(self) -> str:
        """The key of what is kept of turns, unless there are thoughts in them."""
        return self._shelf.dialect

    async def ids_of(self, text: str) -> Sequence[int]:
        """Return the ids of a text that stands alone. Raises `ModelError`."""
        (ids,) = await self._tokenizer.encode([[text]])
        return ids

    async def render(self, prompt: Prompt, context: int | None = None) -> RenderedPrompt:
        """Render what is new, and whatever else is missing.

        `context` is how many tokens prompt and answer may have together: a prompt that may be shortened
        leaves room for an answer. Raises `ModelError` for what the model cannot be told.
        """
        preamble = await self._preamble(prompt)
        turns = Turns(prompt, preamble.toolbox)
        if self._template.additive and not self._shelf.stands_alone(prompt):
            rendered = await self._by_turns(prompt, preamble, turns)
        else:
            rendered = await self._at_once(preamble, turns.all())
        if context is None or prompt.settings.truncation != "auto":
            return rendered
        return await self._shortened(_Long(prompt, preamble, turns, rendered), context)

    def answered(
        self, prompt: RenderedPrompt, sampled: Sequence[int], *, thought: bool
    ) -> Renderings:
        """Return a turn as the next turn's history, its answer as it was sampled.

        `thought` says whether there are thoughts in the answer.
        """
        if not prompt.new:
            return {self._shelf.alone: Rendered(b"", 0)} if self._template.additive else {}
        answer = self._closed(sampled)
        changes = prompt.changes or (self._forgets and thought)
        key = self._shelf.key_in(Cycle.OPEN) if changes else self.dialect
        return {key: joined(self.encoding, [*prompt.new, answer])}

    def warmed(self, prompt: RenderedPrompt) -> Renderings:
        """Return the input of a turn as the next turn's history, where it was not answered."""
        if not prompt.new:
            return self.answered(prompt, (), thought=False)
        key = self._shelf.key_in(Cycle.OPEN) if prompt.changes else self.dialect
        return {key: prompt.new[0]}

    async def _preamble(self, prompt: Prompt) -> Preamble:
        key = key_of(prompt)
        if preamble := self._preambles.get(key):
            return preamble
        toolbox = Toolbox(prompt.tools)
        opening = opening_of(prompt, toolbox)
        pieces: list[Sequence[Piece]] = [[], []]
        if self._template.additive:
            pieces = [self._template.preamble(opening), self._template.answer_opens(opening)]
        pieces.append(self._template.answer_closes)
        *encoded, self._closes = await self._tokenizer.encode(pieces)
        ids, opens = map(self._rendered, encoded)
        return self._preambles.put(key, Preamble(toolbox, opening, ids, opens))

    async def _by_turns(self, prompt: Prompt, preamble: Preamble, turns: Turns) -> RenderedPrompt:
        """Render the turns of which nothing is kept."""
        try:
            planned = await _aside(self._size(prompt), lambda: self._plan(prompt, turns))
        except Uncut:
            return await self._at_once(preamble, turns.all())
        missing = [part for part in planned if isinstance(part, _Missing)]
        encoded = iter(await self._encoded([part.pieces for part in missing]))
        told = [
            self._keep(prompt, part, next(encoded)) if isinstance(part, _Missing) else part
            for part in planned
        ]
        opens = preamble.answer_opens
        rendered = RenderedPrompt(
            preamble.toolbox,
            preamble.opening,
            [preamble.ids, *told, opens],
            [told[-1], opens],
            missing[-1].changes,
        )
        if not self._proof.due():
            return rendered
        return await self._proven(prompt, preamble, turns, rendered)

    def _plan(self, prompt: Prompt, turns: Turns) -> list[Rendered | _Missing]:
        """Return what is kept of each turn, or else how it is rendered. Nothing is kept of the input."""
        history = prompt.history
        at = len(history)
        open_ones: list[Rendered | _Missing] = [self._missing(turns, at, Cycle.OPEN)]
        while at and not open_ones[-1].asks:
            at -= 1
            (kept,) = self._shelf.kept([history[at]], Cycle.OPEN)
            open_ones.append(kept or self._missing(turns, at, Cycle.OPEN))
        closed = enumerate(self._shelf.kept(history[:at], Cycle.CLOSED))
        closed_ones = [kept or self._missing(turns, n, Cycle.CLOSED) for n, kept in closed]
        return [*closed_ones, *reversed(open_ones)]

    def _missing(self, turns: Turns, turn: int, cycle: Cycle) -> _Missing:
        messages = turns.messages(turn)
        pieces = self._template.turn(messages, cycle)
        changes = self._forgets and thinks(messages)
        return _Missing(turn, cycle, pieces, asks(messages), changes)

    def _keep(self, prompt: Prompt, part: _Missing, rendered: Rendered) -> Rendered:
        """Keep what was rendered, unless it is the new input: that is kept with its answer."""
        rendered = rendered._replace(asks=part.asks)
        if part.turn < len(prompt.history):
            key = self._shelf.key_in(part.cycle) if part.changes else self.dialect
            prompt.history[part.turn].rendered[key] = rendered
        return rendered

    def _size(self, prompt: Prompt) -> int:
        """Return about how many bytes of items have to be rendered."""
        size = sum(item.ByteSize() for item in prompt.input)
        speaks = any(item.message.role == "user" for item in prompt.input)
        cycle = Cycle.CLOSED if speaks else Cycle.OPEN
        if self._shelf.kept(prompt.history[-1:], cycle) == [None]:
            size += prompt.history[-1].length
        return size

    async def _at_once(self, preamble: Preamble, messages: Sequence[Message]) -> RenderedPrompt:
        """Render a whole conversation."""
        size = sum(len(message["content"]) for message in messages)
        whole = await _aside(size, lambda: self._template.whole(preamble.opening, messages))
        told = await self._encoded([whole])
        return RenderedPrompt(preamble.toolbox, preamble.opening, told, [], changes=False)

    async def _proven(
        self, prompt: Prompt, preamble: Preamble, turns: Turns, rendered: RenderedPrompt
    ) -> RenderedPrompt:
        """Render the conversation anew, and return what is right."""
        anew = await self._anew(preamble.opening, turns)
        kept = [self.encoding.decode(part.data) for part in rendered.told]
        verdict = judge(kept, anew)
        self._proof.counted(verdict.outcome)
        if verdict.outcome == "not_additive":
            log.error("a conversation is not told as its turns are", turns=len(turns))
            whole = self._rendered(anew.whole)
            return rendered._replace(told=[whole], new=[])
        if not verdict.stale:
            return rendered
        log.error("what was kept of a conversation was wrong", parts=len(verdict.stale))
        self._drop(prompt, verdict.stale)
        told = list(rendered.told)
        for part in verdict.stale:
            told[part] = self._rendered(anew.parts[part])
        return rendered._replace(told=told, new=told[-2:])

    def _drop(self, prompt: Prompt, stale: Iterable[int]) -> None:
        """Let go of parts that were kept and are wrong; the turns stand behind the preamble."""
        self._preambles.drop(key_of(prompt))
        for part in stale:
            if 0 < part <= len(prompt.history):
                self._shelf.drop(prompt.history[part - 1])

    async def _anew(self, opening: Opening, turns: Turns) -> Anew:
        """Render a conversation at once, and part by part, whatever is kept of it."""

        def pieces() -> list[Sequence[Piece]]:
            template, told = self._template, [turns.messages(turn) for turn in range(len(turns))]
            cycles = _cycles(told)
            parts = [template.turn(one, cycle) for one, cycle in zip(told, cycles, strict=True)]
            said = [
                template.turn(before_answer(one), cycle)
                for one, cycle in zip(told, cycles, strict=True)
            ]
            ends = template.preamble(opening), template.answer_opens(opening)
            whole = template.whole(opening, turns.all())
            return [whole, ends[0], *parts, ends[1], ends[0], *said, ends[1]]

        whole, *ids = await self._tokenizer.encode(await asyncio.to_thread(pieces))
        half = len(ids) // 2
        return Anew(whole, ids[:half], ids[half:])

    async def _shortened(self, long: "_Long", context: int) -> RenderedPrompt:
        """Leave out the oldest of a conversation, so that there is room to answer in its context.

        What cannot be left out may still be too long.
        """
        shortened = long.rendered
        most = most_tokens(long.prompt.settings, context)
        if shortened.tokens <= most:
            return shortened
        window = Window(long.prompt, long.tokens, context)
        while (excess := shortened.tokens - most) > 0 and window.drop(excess):
            shortened = await self._what_is_left(window, long)
        return shortened

    async def _what_is_left(self, window: Window, long: "_Long") -> RenderedPrompt:
        """Render what a window leaves: whole turns stay as they were rendered."""
        left = [long.turns.told(turn, items) for turn, items in enumerate(window.turns)]
        if not long.rendered.new:
            return await self._at_once(long.preamble, [m for messages in left for m in messages])
        touched, cycles = sorted(window.touched), _cycles(left)
        anew = await self._encoded(
            [self._template.turn(left[turn], cycles[turn]) for turn in touched]
        )
        told = list(long.rendered.told)
        for turn, rendered in zip(touched, anew, strict=True):
            told[1 + turn] = rendered
        return long.rendered._replace(told=told)

    def _closed(self, sampled: Sequence[int]) -> Rendered:
        """Return an answer with its end as the template has it, whatever ended it."""
        template, closes = self._template, self._closes
        if sampled and sampled[-1] in template.kept_ends:
            closes = closes[1:]
        elif sampled and sampled[-1] in template.ends:
            sampled = sampled[:-1]
        return self._rendered([*sampled, *closes])

    async def _encoded(self, fragments: Iterable[Sequence[Piece]]) -> list[Rendered]:
        return [self._rendered(ids) for ids in await self._tokenizer.encode(fragments)]

    def _rendered(self, ids: Sequence[int]) -> Rendered:
        return Rendered(self.encoding.encode(ids), len(ids))


class _Long(NamedTuple):
    """A prompt that may be shortened."""

    prompt: Prompt
    preamble: Preamble
    turns: Turns
    rendered: RenderedPrompt

    @property
    def tokens(self) -> Sequence[int]:
        """How long each turn is; an estimate by size, where they were rendered at once."""
        if self.rendered.new:
            return [part.tokens for part in self.rendered.told[1:-1]]
        sizes = [1 + segment_bytes for segment_bytes in self.turns.sizes]
        return [self.rendered.tokens * size // sum(sizes) for size in sizes]


def _cycles(turns: Sequence[Sequence[Message]]) -> list[Cycle]:
    """Return where each turn stands: before the last message of the user, or after."""
    cycles: list[Cycle] = []
    asked = False
    for messages in reversed(turns):
        cycles.append(Cycle.CLOSED if asked else Cycle.OPEN)
        asked = asked or asks(messages)
    return cycles[::-1]


def _forgets(template: Template) -> bool:
    """Whether a template tells thoughts only until the user speaks again."""
    return template.turn(_THOUGHT, Cycle.OPEN) != template.turn(_THOUGHT, Cycle.CLOSED)


async def _aside(size: int, work: Callable[[], T]) -> T:
    """Do work on so many bytes, in a thread if that takes long."""
    return work() if size < _LONG else await asyncio.to_thread(work)
