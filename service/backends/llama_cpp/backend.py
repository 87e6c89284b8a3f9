"""A llama.cpp server, driven by token ids.

A turn is rendered once, when it arrives, and its answer is kept as the ids that were sampled: the
next prompt is old ids joined as bytes, followed by what is new. That is what the conversation's
slot holds, so the server computes the new tokens only.
"""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, NamedTuple

import orjson

from service.backends import Capabilities, Produced, Prompt
from service.backends.http import Deadlines, HttpClient
from service.backends.llama_cpp.constraints import constraint, name_constraint, text_constraint
from service.backends.llama_cpp.generation import CALL_ENDS, Generation
from service.backends.llama_cpp.held import Held, ScoredHeld
from service.backends.llama_cpp.output import (
    FreeReader,
    JsonReader,
    ScoredTextReader,
    TextReader,
    call_begins,
    call_reader,
)
from service.backends.llama_cpp.prompt import FixedParts, RenderedPrompt, Renderer
from service.backends.llama_cpp.server import LlamaServer, Properties
from service.backends.llama_cpp.slots import Owner, Slots
from service.backends.llama_cpp.spill import Spill
from service.backends.tools import CallableTool, ToolChoice, one_call_only, tool_choice
from service.conversation import Renderings
from service.errors import ModelError
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
    renderer: Renderer
    slots: Slots


class LlamaCpp:
    """A llama.cpp server whose model reads ChatML."""

    kind = "llama.cpp"
    capabilities = Capabilities(tokens_in="completion", tokens_out=True, parses=False, hint="slot")

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        defaults: Mapping[str, Any] | None = None,
        deadlines: Deadlines | None = None,
        spilled: int = 0,
    ) -> None:
        """`defaults` are llama.cpp's parameters for requests that do not set them.

        So many conversations are `spilled` to files of the server's when others take their slots.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._deadlines = deadlines or Deadlines()
        self._server = LlamaServer(HttpClient(url, headers, self._deadlines), self._deadlines)
        self._defaults = defaults or {}
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
        renderer = await Renderer.of(self._server, properties.fingerprint)
        saved = Spill(self._server, self._spilled) if self._spilled else None
        slots = Slots(properties.slots, self._deadlines.slot, saved)
        self._model = _Model(properties, renderer, slots)

    async def stop(self) -> None:
        """Let go of the connections."""
        self._server.close()

    async def check(self) -> None:
        """Ask whether the model is loaded."""
        await self._server.health()

    async def prepare(self, prompt: Prompt) -> Renderings:
        """Render, and have the slot compute all that precedes the answer."""
        rendered = await self._rendered(prompt)
        tool_choice(prompt.settings, rendered.toolbox)
        if rendered.tokens:
            async with self._generation(prompt, rendered) as generation:
                await generation.sample_unseen({"n_predict": 0})
        return {self.dialect: rendered.new}

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        """Render what is new, and answer in the conversation's slot."""
        rendered = await self._rendered(prompt)
        choice = tool_choice(prompt.settings, rendered.toolbox)
        fixed = self._model.renderer.fixed
        async with self._generation(prompt, rendered) as generation:
            generation.write(fixed.answer_opens)
            answer = (
                _call(generation, fixed, choice)
                if choice.forced
                else _text(generation, choice, prompt)
            )
            async with aclosing(answer):
                async for batch in answer:
                    yield batch
        generation.write(fixed.answer_closes)
        yield [generation.finished(self.dialect)]

    async def _rendered(self, prompt: Prompt) -> RenderedPrompt:
        """Render a prompt, shortened where that is needed and allowed. Raises `ModelError`."""
        renderer = self._model.renderer
        rendered = await renderer.render(prompt)
        if prompt.settings.truncation != "auto":
            return rendered
        return await renderer.shorten(prompt, rendered, self._model.properties.context)

    @asynccontextmanager
    async def _generation(
        self, prompt: Prompt, rendered: RenderedPrompt
    ) -> AsyncGenerator[Generation]:
        """Begin a turn in the conversation's slot. Raises `ModelError` if it does not fit."""
        context = self._model.properties.context
        room = context - rendered.tokens - self._model.renderer.fixed.answer_opens.tokens
        if room <= 0:
            raise ModelError(
                "context_length_exceeded",
                f"The conversation does not fit the model's context of {context} tokens.",
            )
        options = {**self._defaults, **_passed_on(prompt.extra_json), **_sampling(prompt.settings)}
        budget = min(prompt.settings.max_output_tokens or room, room)
        async with self._model.slots.lease(Owner(prompt.tenant, prompt.conversation)) as lease:
            options["n_predict"] = budget
            yield Generation(self._server, lease, rendered, options)


def _text(
    generation: Generation, choice: ToolChoice, prompt: Prompt
) -> AsyncGenerator[Sequence[Produced], None]:
    """Let the model decide, within the text's format if one was asked for."""
    scores = _scores(prompt)
    text = ScoredTextReader() if prompt.logprobs else TextReader()
    if options := text_constraint(prompt.settings):
        return generation.sample({**options, **scores}, JsonReader(text))
    if not choice.tools:
        return generation.sample(scores, text)
    held = ScoredHeld() if prompt.logprobs else Held()
    return generation.sample({**_calls_allowed(prompt), **scores}, FreeReader(choice.tools, held))


async def _call(
    generation: Generation, fixed: FixedParts, choice: ToolChoice
) -> AsyncGenerator[Sequence[Produced], None]:
    """Write the form of a call ourselves and have the model fill it in: so it is always valid."""
    generation.write(fixed.call_opens)
    tool = await _chosen(generation, choice)
    generation.write(fixed.arguments_open)
    yield [call_begins(tool)]
    arguments = generation.sample(
        _whole(constraint({"type": "object", **tool.parameters})), call_reader(tool)
    )
    async with aclosing(arguments):
        async for batch in arguments:
            yield batch
    generation.write(fixed.call_closes)


async def _chosen(generation: Generation, choice: ToolChoice) -> CallableTool:
    """Have the model choose a tool, unless there is only one."""
    if len(choice.tools) == 1:
        (tool,) = choice.tools.values()
        await generation.write_text(json.dumps(tool.joined))
        return tool
    options = {**_whole(name_constraint(choice.tools)), "n_predict": _NAME_TOKENS}
    name = await generation.sample_unseen(options)
    try:
        return choice.tools[json.loads(name)]
    except (ValueError, LookupError) as error:
        raise ModelError("server_error", "The model chose none of the tools.") from error


def _whole(options: Mapping[str, Any]) -> dict[str, Any]:
    """Set the client's stop words aside: they are for text, and would cut a call in two."""
    return {**options, "stop": [], "ignore_eos": False}


def _calls_allowed(prompt: Prompt) -> dict[str, Any]:
    """Return what ends the answer after its first call, if one is all that is allowed."""
    if not one_call_only(prompt.settings):
        return {}
    return {"stop": [*_passed_on(prompt.extra_json).get("stop", []), CALL_ENDS]}


def _scores(prompt: Prompt) -> dict[str, Any]:
    """Return the options that have tokens scored, if that is wanted."""
    return {"n_probs": prompt.settings.top_logprobs} if prompt.logprobs else {}


def _passed_on(extra_json: str) -> dict[str, Any]:
    """Return those of the request's own parameters that llama.cpp knows."""
    extra = orjson.loads(extra_json or "{}")
    options = {name: value for name, value in extra.items() if name in _PASSED_ON}
    if "stop" in options:
        options["stop"] = _stop_words(options["stop"])
    return options


def _stop_words(stop: Any) -> list[str]:
    words = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ModelError("invalid_prompt", "'stop' must be a string or an array of strings.")
    return words


def _sampling(settings: responses_pb2.Settings) -> dict[str, Any]:
    """Return what the client set; what it left out is the model server's to choose."""
    return {field.name: value for field, value in settings.ListFields() if field.name in _SAMPLING}
