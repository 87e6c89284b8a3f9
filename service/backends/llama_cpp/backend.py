"""A llama.cpp server, driven by token ids.

A turn is rendered once, when it arrives, and its answer is kept as the ids that were sampled: the
next prompt is old ids joined as bytes, followed by what is new. That is what the conversation's
slot holds, so the server computes the new tokens only.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

import orjson

from service.backends import Capabilities, Produced, Prompt
from service.backends.http import Deadlines, HttpClient
from service.backends.llama_cpp.constraints import constraint, name_constraint, text_constraint
from service.backends.llama_cpp.format import LlamaFormat, format_of
from service.backends.llama_cpp.generation import Generation
from service.backends.llama_cpp.server import LlamaServer, Properties
from service.backends.llama_cpp.slots import Owner, Slots
from service.backends.llama_cpp.spill import Spill
from service.backends.stops import stop_words_in
from service.backends.tools import CallableTool, ToolChoice, one_call_only, tool_choice
from service.conversation import Renderings
from service.errors import ModelError
from service.parsing.answers import reader_of
from service.parsing.calls import call_begins, call_reader
from service.parsing.forcing import call_end, forced_call
from service.parsing.free import thinking
from service.rendering.encodings import Decimal
from service.rendering.proof import Proof
from service.rendering.renderer import RenderedPrompt, Renderer
from turnwire.v1 import responses_pb2

_NAME_TOKENS = 256  # for a tool's name, whatever the limit on output: its grammar ends it
_PASSED_ON = {
    *("dry_allowed_length", "dry_base", "dry_multiplier", "dry_penalty_last_n"),
    *("dynatemp_exponent", "dynatemp_range", "ignore_eos", "logit_bias", "min_p"),
    *("mirostat", "mirostat_eta", "mirostat_tau", "repeat_last_n", "repeat_penalty", "seed"),
    *("stop", "top_k", "top_n_sigma", "typical_p", "xtc_probability", "xtc_threshold"),
}
"""Parameters that the contract does not know and llama.cpp does."""

_SAMPLING = {"temperature", "top_p", "presence_penalty", "frequency_penalty"}
"""Parameters that the contract and llama.cpp name alike."""


class _Model(NamedTuple):
    properties: Properties
    format: LlamaFormat
    renderer: Renderer
    slots: Slots


class _Turn(NamedTuple):
    prompt: Prompt
    rendered: RenderedPrompt
    choice: ToolChoice
    opened: str
    """The text that makes the model answer: it may have begun a thought."""


class LlamaCpp:
    """A llama.cpp server."""

    kind = "llama.cpp"
    capabilities = Capabilities(tokens_in="completion", tokens_out=True, parses=False, hint="slot")

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        defaults: Mapping[str, Any] | None = None,
        deadlines: Deadlines | None = None,
        proof: Proof | None = None,
        spilled: int = 0,
    ) -> None:
        """`defaults` are llama.cpp's parameters for requests that do not set them.

        So many conversations are `spilled` to files of the server's when others take their slots.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._deadlines = deadlines or Deadlines()
        self._server = LlamaServer(HttpClient(url, headers, self._deadlines), self._deadlines)
        self._defaults = defaults or {}
        self._proof = proof or Proof.never()
        self._spilled = spilled
        self._model: _Model

    @property
    def models(self) -> Sequence[str]:
        """The one model that the server has loaded."""
        return [self._model.properties.model]

    @property
    def dialect(self) -> str:
        """Token ids of this model: decimal, with commas between."""
        return self._model.renderer.dialect

    async def start(self) -> None:
        """Ask the server what it is and which model it has."""
        properties = await self._server.properties()
        found = await format_of(self._server, properties)
        renderer = Renderer(found.template, found.tokenizer, Decimal(), self._proof)
        saved = Spill(self._server, self._spilled) if self._spilled else None
        slots = Slots(properties.slots, self._deadlines.slot, saved)
        self._model = _Model(properties, found, renderer, slots)

    async def stop(self) -> None:
        """Let go of the connections."""
        self._server.close()

    async def check(self) -> None:
        """Ask whether the model is loaded."""
        await self._server.health()

    async def prepare(self, prompt: Prompt) -> Renderings:
        """Render, and have the slot compute all that precedes the answer."""
        turn = await self._turn(prompt)
        async with self._generation(turn) as generation:
            await generation.sample_unseen({"n_predict": 0})
        return self._model.renderer.warmed(turn.rendered)

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        """Render what is new, and answer in the conversation's slot."""
        turn = await self._turn(prompt)
        async with self._generation(turn) as generation:
            answer = self._call if turn.choice.forced else self._free
            async with aclosing(answer(turn, generation)) as batches:
                async for batch in batches:
                    yield batch
        thought = generation.reasoning_tokens > 0
        kept = self._model.renderer.answered(turn.rendered, generation.answer, thought=thought)
        yield [generation.finished(kept)]

    async def _turn(self, prompt: Prompt) -> _Turn:
        """Render a prompt, shortened where that is needed and allowed. Raises `ModelError`."""
        model = self._model
        rendered = await model.renderer.render(prompt, model.properties.context)
        opens = model.format.template.answer_opens(rendered.opening)
        choice = tool_choice(prompt.settings, rendered.toolbox)
        return _Turn(prompt, rendered, choice, model.format.specials.spelled(opens))

    @asynccontextmanager
    async def _generation(self, turn: _Turn) -> AsyncGenerator[Generation]:
        """Begin a turn in the conversation's slot. Raises `ModelError` if it does not fit."""
        model, prompt = self._model, turn.prompt
        room = model.properties.context - turn.rendered.tokens
        if room <= 0:
            raise ModelError(
                "context_length_exceeded",
                "The conversation does not fit the model's context of "
                f"{model.properties.context} tokens.",
            )
        options = {**self._defaults, **_passed_on(prompt.extra_json), **_sampling(prompt.settings)}
        options["n_predict"] = min(prompt.settings.max_output_tokens or room, room)
        if shown := model.format.shown:
            options["preserved_tokens"] = shown
        owner = Owner(prompt.tenant, prompt.conversation)
        told = Decimal().join(part.data for part in turn.rendered.told)
        async with model.slots.lease(owner, told) as lease:
            lease.savable = prompt.store
            yield Generation(self._server, lease, turn.rendered.told, options)

    async def _free(
        self, turn: _Turn, generation: Generation
    ) -> AsyncGenerator[Sequence[Produced], None]:
        """Let the model decide, within the text's format if one was asked for."""
        syntax, prompt, opened = self._model.format.syntax, turn.prompt, turn.opened
        options = {**text_constraint(prompt.settings), **_scores(prompt)}
        if "json_schema" in options and thinking(syntax, opened):
            await self._write(generation, f"\n{syntax.thought_closes}\n\n")
            opened = ""
        if turn.choice.tools and one_call_only(prompt.settings) and (end := call_end(syntax)):
            generation.call_end = end
            options["stop"] = [*_passed_on(prompt.extra_json).get("stop", []), end.word]
        reader = reader_of(syntax, turn.choice, prompt, opened)
        async with aclosing(generation.sample(options, reader)) as batches:
            async for batch in batches:
                yield batch

    async def _call(
        self, turn: _Turn, generation: Generation
    ) -> AsyncGenerator[Sequence[Produced], None]:
        """Write the form of a call ourselves and have the model fill it in: so it is always valid.

        A call that is cut off is closed all the same: it stands in the history as no other could.
        """
        form = forced_call(self._model.format.syntax, turn.opened)
        await self._write(generation, form.opens)
        tool = await _chosen(generation, turn.choice)
        await self._write(generation, form.between)
        yield [call_begins(tool)]
        schema = _whole(constraint({"type": "object", **tool.parameters}))
        async with aclosing(generation.sample(schema, call_reader(tool))) as batches:
            async for batch in batches:
                yield batch
        await self._write(generation, form.closes)

    async def _write(self, generation: Generation, text: str) -> None:
        await generation.write(self._model.format.specials.pieces(text))


async def _chosen(generation: Generation, choice: ToolChoice) -> CallableTool:
    """Have the model choose a tool, unless there is only one."""
    if len(choice.tools) == 1:
        (tool,) = choice.tools.values()
        await generation.write([tool.joined])
        return tool
    options = {**_whole(name_constraint(choice.tools)), "n_predict": _NAME_TOKENS}
    name = await generation.sample_unseen(options)
    try:
        return choice.tools[name]
    except LookupError as error:
        raise ModelError("server_error", "The model chose none of the tools.") from error


def _whole(options: Mapping[str, Any]) -> dict[str, Any]:
    """Set the client's stop words aside: they are for text, and would cut a call in two."""
    return {**options, "stop": [], "ignore_eos": False}


def _scores(prompt: Prompt) -> dict[str, Any]:
    """Return the options that have tokens scored, if that is wanted."""
    return {"n_probs": prompt.settings.top_logprobs} if prompt.logprobs else {}


def _passed_on(extra_json: str) -> dict[str, Any]:
    """Return those of the request's own parameters that llama.cpp knows."""
    extra = orjson.loads(extra_json or "{}")
    options = {name: value for name, value in extra.items() if name in _PASSED_ON}
    if "stop" in options:
        options["stop"] = stop_words_in(options["stop"])
    return options


def _sampling(settings: responses_pb2.Settings) -> dict[str, Any]:
    """Return what the client set; what it left out is the model server's to choose."""
    return {field.name: value for field, value in settings.ListFields() if field.name in _SAMPLING}
