"""What a model server is told: the very tokens of each prompt, read off the wire."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from tests.vllm.tap import Tap, tapped


class Prompts:
    """The prompts that went over a wire. One request at a time is read rightly."""

    def __init__(self, tap: Tap) -> None:
        self.url = f"http://127.0.0.1:{tap.port}"
        self._tap = tap

    def last(self) -> list[int]:
        """Return the tokens of the last prompt."""
        for request in reversed(bytes(self._tap.sent).split(b"POST /")[1:]):
            head, _, rest = request.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            body = json.loads(rest[:length])
            if "prompt" in body:
                tokens: list[int] = body["prompt"]
                assert all(isinstance(token, int) for token in tokens), "it was not told tokens"
                return tokens
        raise AssertionError("it was not told anything")


@asynccontextmanager
async def told_by(url: str) -> AsyncIterator[Prompts]:
    """Stand between a model server and those that ask it."""
    async with tapped(urlsplit(url).port or 0) as tap:
        yield Prompts(tap)
