"""The vocabulary of a llama.cpp server's model, which stays with the server."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from service.backends.llama_cpp.server import LlamaServer
from service.rendering import Piece

_SPELLINGS = re.compile(r"<[^\s<>{}'\"]{1,48}>|\[/?[A-Z_]{2,32}\]")
"""What in the source of a template may spell a special token."""
_MOST = 256


class LlamaTokenizer:
    """Makes ids of pieces: all fragments by one request."""

    def __init__(self, server: LlamaServer, identity: str) -> None:
        self.identity = identity
        self._server = server

    async def encode(self, fragments: Iterable[Sequence[Piece]]) -> list[list[int]]:
        """Tokenise fragments. Raises `ModelError`."""
        return await self._server.encode(list(fragments))


async def special_tokens(server: LlamaServer, template: str) -> list[Mapping[str, Any]]:
    """Return the special tokens that a template spells, as a `tokenizer.json` lists them.

    The server does not list them, but tells which texts are one token. Raises `ModelError`.
    """
    spellings = [*dict.fromkeys(_SPELLINGS.findall(template))][:_MOST]
    ids = await server.special(spellings)
    flags = {"special": True, "lstrip": False, "rstrip": False, "single_word": False}
    return [
        {"content": spelling, "id": found[0], **flags}
        for spelling, found in zip(spellings, ids, strict=True)
        if len(found) == 1
    ]
