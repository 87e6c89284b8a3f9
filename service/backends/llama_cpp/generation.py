"""One answer on its way: the model and we write it in turns, into one slot."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from service.backends import Finished, Produced, Text
from service.backends.llama_cpp.completion import Piece, Sampled, Stopped
from service.backends.llama_cpp.output import Reader, TextReader
from service.backends.llama_cpp.prompt import RenderedPrompt
from service.backends.llama_cpp.server import LlamaServer
from service.backends.llama_cpp.slots import Lease
from service.conversation import Rendered
from service.errors import ModelError

CALL_ENDS = "</tool_call>"
"""A stop word for turns that may have one call only; kept, because the model wrote it."""


class Generation:
    """An answer, and the ids of everything in front of it."""

    def __init__(
        self,
        server: LlamaServer,
        lease: Lease,
        prompt: RenderedPrompt,
        options: Mapping[str, Any],
    ) -> None:
        """`options` are llama.cpp's parameters; their `n_predict` is for the whole answer."""
        self._server = server
        self._lease = lease
        self._prompt = prompt
        self._options = options
        self._own: list[Rendered] = []
        self._pieces: list[Piece] = []
        self._stops: list[Stopped] = []

    def write(self, part: Rendered) -> None:
        """Write something ourselves."""
        self._own.append(part)

    async def write_text(self, text: str) -> None:
        """Write a text ourselves. Raises `ModelError`."""
        self._own += await self._server.render([[text]])

    async def sample(
        self, options: Mapping[str, Any], reader: Reader
    ) -> AsyncGenerator[Sequence[Produced], None]:
        """Have the model go on; closing stops it. Raises `ModelError`."""
        request = {**self._request(), **options}
        async with self._server.complete([*self._prompt.told, *self._own], request) as completion:
            self._lease.filled = self._lease.reuse = True
            stops = len(self._stops)
            while events := await completion.read():
                if batch := [piece for event in events for piece in self._take(event, reader)]:
                    yield batch
        if len(self._stops) == stops:
            raise ModelError("server_error", "The model server broke off.")
        self._own += await self._server.render([self._pieces])
        self._pieces = []

    async def sample_unseen(self, options: Mapping[str, Any]) -> str:
        """Have the model go on without showing what it says; return that. Raises `ModelError`."""
        text: list[str] = []
        async with aclosing(self.sample(options, TextReader())) as batches:
            async for batch in batches:
                text += [part.text for part in batch if isinstance(part, Text)]
        return "".join(text)

    def finished(self, dialect: str) -> Finished:
        """Sum up."""
        turn = [self._prompt.new, *self._own]
        tokens = sum(part.tokens for part in turn)
        return Finished(
            reason="length" if self._stops[-1].by_length else "stop",
            input_tokens=self._stops[0].input_tokens,
            cached_tokens=self._stops[0].cached_tokens,
            output_tokens=sum(stop.output_tokens for stop in self._stops),
            rendered={
                dialect: Rendered(b",".join(part.data for part in turn if part.tokens), tokens)
            },
        )

    def _request(self) -> dict[str, Any]:
        spent = sum(stop.output_tokens for stop in self._stops)
        return {
            **self._options,
            "n_predict": max(1, self._options["n_predict"] - spent),
            "stream": True,
            "return_tokens": True,
            "cache_prompt": self._lease.reuse,
            "id_slot": self._lease.slot,
        }

    def _take(self, event: Sampled | Stopped, reader: Reader) -> list[Produced]:
        if isinstance(event, Sampled):
            self._pieces += event.pieces
            return reader.push(event.text, event.scores)
        del self._pieces[len(self._pieces) - event.silent_pieces :]
        if event.word == CALL_ENDS:
            self._pieces.append(event.word)
        self._stops.append(event)
        return reader.cut() if event.by_length or event.word else reader.end()
