"""A server of the chat completions API."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple

import structlog

from service.backends import Capabilities, Produced, Prompt
from service.backends.chat.carrying import carrier_of
from service.backends.chat.chunks import Chunks
from service.backends.chat.fragments import Fragments
from service.backends.chat.kinds import Carrier
from service.backends.chat.openings import Opening, Openings
from service.backends.chat.options import Options, options_of
from service.backends.chat.server import ChatServer, Model, Server
from service.backends.chat.told import Told, ToldInIds, ToldInMessages
from service.conversation import Renderings
from service.errors import ModelError
from service.rendering.renderer import Renderer

log = structlog.get_logger(__name__)


class _ByIds(NamedTuple):
    """How a model is told conversations in ids."""

    renderer: Renderer
    carrier: Carrier


class ChatCompletions:
    """A server of the chat completions API, told conversations as messages, or as ids where it can be."""

    def __init__(self, server: ChatServer) -> None:
        """Raises `ModelError` for a kind that there is not."""
        self._wanted = server
        self._server = Server(server)
        self._kind = self._server.kind
        self.kind = self._kind.name
        self._fragments = Fragments(self._kind.thoughts)
        self._openings = Openings(self._fragments)
        self._models: dict[str, Model] = {}
        self._by_ids: dict[str, _ByIds] = {}

    @property
    def models(self) -> Sequence[str]:
        """The models that were named, or else all that the server has."""
        return self._wanted.models or tuple(self._models)

    @property
    def capabilities(self) -> Capabilities:
        """What it can do; with ids, if all of its models can."""
        found = [self._by_ids[name] for name in self.models if name in self._by_ids]
        ids = bool(found) and len(found) == len(self.models)
        return Capabilities(
            tokens_in="chat" if ids else "none",
            tokens_out=ids and all(one.carrier.asks for one in found),
            hint="salt" if self._kind.salted else "header" if self._kind.session else "none",
        )

    async def start(self) -> None:
        """Ask which models there are, and how they take ids. Raises `ModelError`."""
        self._models = {model.name: model for model in await self._server.models()}
        if not self.models:
            raise ModelError("server_error", "The model server lists no models: name those to use.")
        for name in self.models if self._wanted.renderer else ():
            await self._try_ids(name)

    async def stop(self) -> None:
        """Let go of the connections."""
        self._server.close()

    async def check(self) -> None:
        """Ask whether it is well."""
        await self._server.check()

    async def prepare(self, prompt: Prompt) -> Renderings:
        """Have the server compute a prompt of ids, for which one token is generated.

        Messages are only serialised: nobody knows whether the server would find them again.
        """
        opening = self._openings.of(prompt)
        options = options_of(prompt, self._kind, opening)
        told = await self._told(prompt, opening)
        if not isinstance(told, ToldInIds):
            return {self._fragments.dialect: self._fragments.of(prompt.input, opening.toolbox)}
        async with self._server.stream(self._body(options, told, 1)) as stream:
            while await stream.read():
                pass
        return {}

    async def generate(self, prompt: Prompt) -> AsyncGenerator[Sequence[Produced], None]:
        """Answer. A conversation that turns out too long is shortened where that is allowed."""
        opening = self._openings.of(prompt)
        options = options_of(prompt, self._kind, opening)
        told = await self._told(prompt, opening)
        while True:
            begun = False
            try:
                async with aclosing(self._answer(prompt, opening, options, told)) as batches:
                    async for batch in batches:
                        begun = True
                        yield batch
            except ModelError as error:
                if begun or error.code != "context_length_exceeded" or not told.shortened():
                    raise
            else:
                return

    async def _answer(
        self, prompt: Prompt, opening: Opening, options: Options, told: Told
    ) -> AsyncGenerator[Sequence[Produced], None]:
        chunks = Chunks(prompt, opening.toolbox)
        body = self._body(options, told, told.limit(prompt))
        async with self._server.stream(body) as stream:
            while not (chunks.done or chunks.over) and (events := await stream.read()):
                if batch := chunks.read(told.read(events)):
                    yield batch
            if chunks.done:
                await stream.rest()
        yield [chunks.finished(told.answered(chunks))]

    async def _try_ids(self, name: str) -> None:
        assert self._wanted.renderer
        renderer = await asyncio.to_thread(self._wanted.renderer, name)
        if carrier := await carrier_of(self._server, name, renderer):
            self._by_ids[name] = _ByIds(renderer, carrier)

    async def _told(self, prompt: Prompt, opening: Opening) -> Told:
        """Return a conversation in ids if that can be, else in messages. Raises `ModelError`."""
        model = self._models.get(prompt.model)
        context = model.context if model else self._wanted.context
        if by_ids := self._by_ids.get(prompt.model):
            try:
                rendered = await by_ids.renderer.render(prompt, context)
            except ModelError as error:
                log.info("a prompt is told in messages, not in ids", code=error.code)
            else:
                return ToldInIds(rendered, by_ids.renderer, by_ids.carrier, context)
        return ToldInMessages(prompt, opening, self._fragments, context)

    def _body(self, options: Options, told: Told, limit: int | None) -> list[bytes]:
        limits: dict[str, int] = {self._kind.limit: limit} if limit else {}
        return options.body(told.members(), {**told.asks, **limits})
