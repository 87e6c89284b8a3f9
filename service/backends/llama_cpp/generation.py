"""One answer on its way: the model and we write it in turns, into one slot."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from service.backends import (
    CustomCallBegins,
    Finished,
    FunctionCallBegins,
    ItemEnds,
    Produced,
    ReasoningText,
    Text,
)
from service.backends.llama_cpp.completion import Sampled, Stopped
from service.backends.llama_cpp.server import LlamaServer
from service.backends.llama_cpp.slots import Lease
from service.conversation import Rendered, Renderings
from service.errors import Unavailable
from service.parsing import Reader
from service.parsing.forcing import CallEnd
from service.parsing.texts import TextReader
from service.rendering import Piece
from service.rendering.encodings import Decimal


class Generation:
    """An answer, and the ids of everything in front of it."""

    def __init__(
        self,
        server: LlamaServer,
        lease: Lease,
        prompt: Sequence[Rendered],
        options: Mapping[str, Any],
    ) -> None:
        """`options` are llama.cpp's parameters; their `n_predict` is for the whole answer."""
        self._server = server
        self._lease = lease
        self._prompt = prompt
        self._options = options
        self._pieces: list[Piece] = []
        self._stops: list[Stopped] = []
        self.call_end: CallEnd | None = None
        """The stop word of a turn that may have one call only: kept, because the model wrote it."""
        self.answer: list[int] = []
        """The ids of the answer so far, whoever wrote them."""
        self.reasoning_tokens = 0
        self._in_call = False

    async def write(self, pieces: Sequence[Piece]) -> None:
        """Write something ourselves. Raises `ModelError`."""
        (ids,) = await self._server.encode([pieces])
        self.answer += ids

    async def sample(
        self, options: Mapping[str, Any], reader: Reader
    ) -> AsyncGenerator[Sequence[Produced], None]:
        """Have the model go on; closing stops it. Raises `ModelError`."""
        written = Rendered(Decimal().encode(self.answer), len(self.answer))
        request = {**self._request(), **options}
        async with self._server.complete([*self._prompt, written], request) as completion:
            self._lease.filled = self._lease.reuse = True
            stops = len(self._stops)
            while events := await completion.read():
                if batch := [piece for event in events for piece in self._take(event, reader)]:
                    yield batch
        if len(self._stops) == stops:
            raise Unavailable("server_error", "The model server broke off.")
        await self.write(self._pieces)
        self._pieces = []

    async def sample_unseen(self, options: Mapping[str, Any]) -> str:
        """Have the model go on without showing what it says; return that. Raises `ModelError`."""
        text: list[str] = []
        async with aclosing(self.sample(options, TextReader())) as batches:
            async for batch in batches:
                text += [part.text for part in batch if isinstance(part, Text)]
        return "".join(text)

    def finished(self, rendered: Renderings) -> Finished:
        """Sum up; `rendered` is the turn as the next turn's history."""
        return Finished(
            reason="length" if self._stops[-1].by_length or self._in_call else "stop",
            input_tokens=self._stops[0].input_tokens,
            cached_tokens=self._stops[0].cached_tokens,
            output_tokens=sum(stop.output_tokens for stop in self._stops),
            reasoning_tokens=self.reasoning_tokens,
            rendered=rendered,
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
        produced = self._told(event, reader)
        for piece in produced:
            if isinstance(piece, FunctionCallBegins | CustomCallBegins):
                self._in_call = True
            elif isinstance(piece, ItemEnds):
                self._in_call = False
        return produced

    def _told(self, event: Sampled | Stopped, reader: Reader) -> list[Produced]:
        if isinstance(event, Sampled):
            self._pieces += event.pieces
            produced = reader.push(event.text, event.scores)
            if produced and isinstance(produced[-1], ReasoningText):
                self.reasoning_tokens += len(event.pieces)
            return produced
        del self._pieces[len(self._pieces) - event.silent_pieces :]
        if self.call_end and event.word == self.call_end.word:
            self._pieces.append(event.word + self.call_end.rest)
            self._in_call = False
        self._stops.append(event)
        return reader.cut() if event.by_length or event.word else reader.end()
