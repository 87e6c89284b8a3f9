"""A vocabulary for templates that tokenise while they render: it leaves text as it is, for later.

Such a template puts ids together and never looks at those of text, so a text may stand among them as it
is. It is tokenised with all others, or found among those that were.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from service.rendering import Piece
from service.rendering.specials import Specials

_TAGS = ["<", "</"]
"""What templates put in front of the keys of schemas and arguments, which anybody may choose."""


class Scaffold:
    """A vocabulary as the library `renderers` uses it."""

    name_or_path = ""
    unk_token_id: int | None = None
    eos_token_id: int | None = None

    def __init__(self, specials: Specials) -> None:
        self._specials = specials
        self._rests = specials.rests(_TAGS)

    def said(self, told: Any) -> Any:
        """Return what clients and tools said, text or JSON, so that no special token is found in it."""
        return self._specials.broken(told)

    def keyed(self, told: Any) -> Any:
        """Return a schema or arguments so that no special token comes of their keys in tags either."""
        match told:
            case Mapping():
                return {self._key(key): self.keyed(value) for key, value in told.items()}
            case list() | tuple():
                return [self.keyed(value) for value in told]
            case _:
                return self.said(told)

    def encode(self, text: str, *_: Any, **__: Any) -> list[int]:
        """Return the special tokens of a text, and the texts between them in the place of ids."""
        pieces = self._specials.pieces(text)
        return [piece if isinstance(piece, int) else _Text.of(piece) for piece in pieces]

    def decode(self, *_: Any, **__: Any) -> str:
        """Say that it cannot: the library wants to know where a text begins that has none but one place."""
        raise NotImplementedError

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """Return the id of a special token; None if there is no such."""
        return self._specials.ids.get(token)

    def _key(self, key: str) -> Any:
        return self._specials.broken(key, self._rests)


class _Text(int):
    """A text in the place of an id; not the id of any token."""

    text: str

    @classmethod
    def of(cls, text: str) -> "_Text":
        """Make one of a text."""
        made = cls(-1)
        made.text = text
        return made


def pieces_of(ids: Iterable[int]) -> list[Piece]:
    """Return what a template put together, texts as texts."""
    return [token.text if isinstance(token, _Text) else token for token in ids]
