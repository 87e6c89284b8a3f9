"""An adapter that has started, and all that can be seen of it from outside."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import httpx

from service.backends import Backend, Finished, Produced, Prompt, ScoredText, Text
from service.backends.http import Deadlines
from service.errors import ModelError, Unavailable
from tests.adapters.rows import Row
from tests.adapters.servers import Address, Scene
from tests.adapters.wire import WAIT, Wire
from tests.llama_servers import LlamaAddress
from tests.models import IM_START
from tests.service.backends.llama_cpp.conversing import user
from tests.service.backends.responses.chatting import Chat
from tests.vllm.tap import Tap

PATIENT = Deadlines(connect=5, slot=30, answer=30, read=30)
WORDS = "every turn carries only what is new and nothing else and so on and on"
"""Enough of them that whoever repeats them says more than is asked for."""
_FEW = 12  # tokens
_FORMS = ("prompt", "messages")


class Prompted(NamedTuple):
    """What the real server was asked last."""

    prompt: Any
    """Ids, or messages."""

    @property
    def text(self) -> str:
        """All that is said in it."""
        if isinstance(self.prompt[0], int):
            return bytes(token for token in self.prompt if token < 256).decode()
        return "\n".join(str(message["content"]) for message in self.prompt)

    @property
    def turns(self) -> int:
        """How many turns it has for a model that reads ids."""
        starts: int = self.prompt.count(IM_START)
        return starts


@dataclass
class Front:
    """One adapter, its server, and the wire between them."""

    row: Row
    backend: Backend
    wire: Wire
    address: Address
    """Of the server itself, which is not on the wire."""
    scene: Scene
    llama: LlamaAddress
    tap: Tap

    def chat(self, **settings: Any) -> Chat:
        """Begin a conversation."""
        usual: dict[str, Any] = {"temperature": 0.0, "max_output_tokens": _FEW}
        chosen = {**usual, **self.row.settings, **settings}
        return Chat(self.backend, self.backend.models[0], settings=chosen)

    def endless(self) -> Prompt:
        """Return what makes the model say more than anybody waits for."""
        asked = user(self.row.endless)
        return self.chat().prompt(asked, max_output_tokens=3500, extra='{"ignore_eos": true}')

    async def working(self) -> int:
        """Return how many turns the real server works at."""
        headers = {"Authorization": f"Bearer {self.llama.key}"}
        async with httpx.AsyncClient(
            base_url=self.llama.url, headers=headers, verify=False
        ) as client:
            slots = (await client.get("/slots")).json()
        return sum(slot["is_processing"] for slot in slots)

    async def until_working(self, turns: int) -> None:
        """Return once the real server works at so many turns. All is the same to one that cannot be seen."""
        async with asyncio.timeout(WAIT):
            while "work" not in self.row.cannot and await self.working() != turns:
                await asyncio.sleep(0.001)

    def prompted(self) -> Prompted:
        """Return what the real server was asked last."""
        asked = _asked(bytes(self.tap.sent))
        return Prompted(next(body[form] for body in asked for form in _FORMS if form in body))

    def expect_told(self, words: str, times: int) -> None:
        """Expect words so often in what the real server was asked last, where that can be seen."""
        assert "prompts" in self.row.cannot or self.prompted().text.count(words) == times

    @asynccontextmanager
    async def another(self, deadlines: Deadlines) -> AsyncIterator["Front"]:
        """Start another adapter in front of the same server, on a wire of its own."""
        async with Wire(self.address.url).laid() as wire:
            backend = self.row.make(replace(self.address, url=wire.url), deadlines, self.scene)
            await backend.start()
            try:
                yield replace(self, backend=backend, wire=wire)
            finally:
                await backend.stop()


def _asked(sent: bytes) -> Iterator[dict[str, Any]]:
    """Yield the bodies of requests, the last one first."""
    for request in reversed(sent.split(b"POST /")[1:]):
        head, _, rest = request.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        yield json.loads(rest[:length])


class Failure(NamedTuple):
    """How a turn failed. The error itself would keep alive what it has passed through."""

    unavailable: bool
    code: str
    message: str


@dataclass(frozen=True)
class Outcome:
    """What came of a turn, whether or not it came to its end."""

    text: str
    batches: int
    finished: Finished | None
    failure: Failure | None


async def outcome(backend: Backend, prompt: Prompt) -> Outcome:
    """Take a turn to whatever end it has."""
    batches: list[Sequence[Produced]] = []
    failure = None
    try:
        async with asyncio.timeout(WAIT):
            await hear(backend, prompt, batches)
    except ModelError as error:
        failure = Failure(isinstance(error, Unavailable), error.code, error.message)
    produced = [piece for batch in batches for piece in batch]
    finished = [piece for piece in produced if isinstance(piece, Finished)]
    assert len(finished) == (failure is None)
    assert not finished or produced[-1] is finished[0]
    return Outcome(said(produced), len(batches), finished[0] if finished else None, failure)


async def hear(backend: Backend, prompt: Prompt, batches: list[Sequence[Produced]]) -> None:
    """Take a turn; what came before a failure counts."""
    async with aclosing(backend.generate(prompt)) as generated:
        async for batch in generated:
            batches.append(batch)  # noqa: PERF401


def said(produced: Sequence[Produced]) -> str:
    """Return the text of an answer."""
    return "".join(piece.text for piece in produced if isinstance(piece, Text | ScoredText))
