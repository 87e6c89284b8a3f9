"""A backend made of an engine: prompts rendered to ids, answers read from ids.

A turn is rendered once, when it arrives, and its answer is kept as the ids that were sampled: the next
prompt is old ids joined as bytes, followed by what is new.
"""

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple, TypeAlias

from service.backends import Capabilities, Finished, Produced, Prompt
from service.backends.engines import Engine, Model, Request
from service.backends.engines.answer import Answer, Limits
from service.backends.engines.constraints import constraint_of
from service.backends.engines.files import ends_of
from service.backends.engines.sampling import parameters, stop_words
from service.backends.tools import ToolChoice, one_call_only, tool_choice
from service.conversation import Renderings
from service.errors import ModelError
from service.parsing.answers import reader_of
from service.rendering import Files
from service.rendering.formats import Format
from service.rendering.proof import Proof
from service.rendering.renderer import RenderedPrompt, Renderer

Formats: TypeAlias = Callable[[Files, str], Format]
"""Finds the format of a model, by its files and its name. Raises `ModelError`."""

_OPENING_TOKENS = 64  # more than stand between the new input and the answer


class _Loaded(NamedTuple):
    model: Model
    format: Format
    renderer: Renderer
    ends: frozenset[int]


class _Turn(NamedTuple):
    prompt: Prompt
    rendered: RenderedPrompt
    choice: ToolChoice
    opened: str
    """The text that makes the model answer."""
    room: int
    """How many tokens there may be of the answer."""


class TokenEngine:
    """An engine, with template, vocabulary and syntax of its model in front of it."""

    def __init__(self, engine: Engine, formats: Formats, proof: Proof) -> None:
        self.kind = engine.kind
        self._engine = engine
        self._formats = formats
        self._proof = proof
        self._loaded: _Loaded

    @property
    def models(self) -> Sequence[str]:
        """The one model that the engine has loaded."""
        return [self._loaded.model.name]

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        return self._engine.capabilities

    @property
    def dialect(self) -> str:
        """Token ids of this model, as the engine is sent them."""
        return self._loaded.renderer.dialect

    async def start(self) -> None:
        """Ask the engine what it has loaded, and get what belongs to that. Raises `ModelError`."""
        model = await self._engine.model()
        if model.context <= 0:
            raise ModelError("server_error", "The engine does not say how long its context is.")
        files = await self._engine.files()
        found = await asyncio.to_thread(self._formats, files, model.name)
        renderer = Renderer(found.template, found.tokenizer, self._engine.encoding, self._proof)
        ends = found.template.ends | ends_of(files)
        self._loaded = _Loaded(model, found, renderer, ends)

    async def stop(self) -> None:
        """Let go of the connections."""
        await self._engine.stop()

    async def check(self) -> None:
        """Ask the engine whether it is well."""
        await self._engine.check()

    async def prepare(self, prompt: Prompt) -> Renderings:
        """Render, and have the engine compute all that precedes the answer."""
        turn = await self._turn(prompt)
        async with aclosing(self._engine.sample(_dry(self._request(turn)))) as batches:
            async for _ in batches:
                pass
        return self._loaded.renderer.warmed(turn.rendered)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        """Render what is new, and read what the engine samples."""
        turn = await self._turn(prompt)
        answer = self._answer(turn)
        async with aclosing(self._engine.sample(self._request(turn))) as batches:
            async for batch in batches:
                if produced := [piece for event in batch for piece in answer.take(event)]:
                    yield produced
                if answer.complete:
                    break
        produced = answer.end()
        yield [*produced, await self._finished(turn.rendered, answer)]

    async def _turn(self, prompt: Prompt) -> _Turn:
        """Render a prompt. Raises `ModelError` if it does not fit, or asks for what cannot be."""
        model = self._loaded.model
        rendered = await self._loaded.renderer.render(prompt, model.context)
        room = model.context - rendered.tokens
        if room <= 0:
            raise ModelError(
                "context_length_exceeded",
                f"The conversation does not fit the model's context of {model.context} tokens.",
            )
        choice = tool_choice(prompt.settings, rendered.toolbox)
        return _Turn(prompt, rendered, choice, self._opened(rendered), room)

    def _opened(self, rendered: RenderedPrompt) -> str:
        """Return the text that makes the model answer: it may have begun a thought."""
        last = self._engine.encoding.decode(rendered.told[-1].data)
        return self._loaded.format.detokenizer().push(last[-_OPENING_TOKENS:])

    def _request(self, turn: _Turn) -> Request:
        """Return what the engine is to do. Raises `ModelError`."""
        prompt, syntax = turn.prompt, self._loaded.format.syntax
        asked = parameters(prompt.settings, prompt.extra_json)
        return Request(
            prompt=turn.rendered.told,
            model=self._loaded.model.name,
            most=min(prompt.settings.max_output_tokens or turn.room, turn.room),
            ends=[] if asked.get("ignore_eos") else sorted(self._loaded.ends),
            tenant=prompt.tenant,
            conversation=prompt.conversation,
            parameters=asked,
            constraint=constraint_of(prompt.settings, turn.choice, syntax, turn.opened),
            likeliest=prompt.settings.top_logprobs if prompt.logprobs else None,
        )

    def _answer(self, turn: _Turn) -> Answer:
        """Return what reads an answer. Stop words are for text, and would cut a forced call in two."""
        prompt, forced = turn.prompt, turn.choice.forced
        limits = Limits(
            ends=self._loaded.ends,
            words=[] if forced else stop_words(prompt.extra_json),
            calls=1 if one_call_only(prompt.settings) and not forced else None,
        )
        found = self._loaded.format
        reader = reader_of(found.syntax, turn.choice, prompt, turn.opened)
        return Answer(found.detokenizer, reader, limits)

    async def _finished(self, rendered: RenderedPrompt, answer: Answer) -> Finished:
        """Sum up, and keep the turn as it was sampled."""
        (kept,) = await self._loaded.format.tokenizer.encode([answer.kept])
        return Finished(
            reason="length" if answer.by_length else "stop",
            input_tokens=rendered.tokens,
            cached_tokens=answer.cached_tokens,
            output_tokens=answer.output_tokens,
            reasoning_tokens=answer.reasoning_tokens,
            rendered=self._loaded.renderer.answered(rendered, kept, thought=answer.thought),
        )


def _dry(request: Request) -> Request:
    """Return what has the whole prompt computed, and as good as nothing sampled."""
    return dataclasses.replace(request, most=1, constraint=None, likeliest=None)
