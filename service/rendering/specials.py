"""The special tokens of a vocabulary: known by their spelling, and never met in what somebody said.

A template is rendered as text, in which its own special tokens are spelled out. What users and tools say
may spell them too, so that is broken up before and put together again once the text is in pieces.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from service.errors import ModelError
from service.rendering import Piece

BREAK = "\U0001093f"
"""Breaks up what spells a token. Printable, without case, and used in no language of today; where somebody
says it, it is said twice."""

_JOINT = re.compile(f"{BREAK}({BREAK}?)")
_BLANK = (
    " \t\r\n\v\f\N{LOWER ONE EIGHTH BLOCK}"  # the last one is how some vocabularies spell a space
)


class Specials:
    """Special tokens, by their spelling."""

    def __init__(self, added: Iterable[Mapping[str, Any]]) -> None:
        """Take them from the `added_tokens` of a `tokenizer.json`. Raises `ModelError`."""
        special = [token for token in added if is_special(token)]
        self.ids: Mapping[str, int] = {token["content"]: token["id"] for token in special}
        self.spelling: Mapping[int, str] = {token: text for text, token in self.ids.items()}
        self._spelled = _breaking(self.ids)
        # Whatever is not one of the tokens is one word, which is unknown: its id is 0.
        self._splitter = Tokenizer(WordLevel({"": 0}, unk_token=""))
        self._splitter.add_tokens([_flagged(token) for token in special])
        self._found = {self._splitter.token_to_id(text): token for text, token in self.ids.items()}

    def broken(self, said: Any) -> Any:
        """Return JSON, in none of whose texts a special token is spelled."""
        match said:
            case str():
                return self._spelled.sub(rf"\g<0>{BREAK}", said)
            case Mapping():
                return {self.broken(key): self.broken(value) for key, value in said.items()}
            case list() | tuple():
                return [self.broken(value) for value in said]
            case _:
                return said

    def pieces(self, text: str) -> list[Piece]:
        """Split text at special tokens, and put together what was broken up.

        White space beside a token is part of it where the vocabulary says so.
        """
        split = self._splitter.encode(text, add_special_tokens=False)
        return [
            self._found[token] if token else _whole(text[start:end])
            for token, (start, end) in zip(split.ids, split.offsets, strict=True)
        ]

    def spelled(self, pieces: Iterable[Piece]) -> str:
        """Return pieces as text, special tokens spelled out."""
        return "".join(self.spelling[p] if isinstance(p, int) else p for p in pieces)


def is_special(added: Mapping[str, Any]) -> bool:
    """Whether an added token means more than its spelling.

    Runs of white space, and single characters that a vocabulary lacked, are but words.
    """
    words = added["content"].strip(_BLANK)
    return bool(words) and (added["special"] or len(words) > 1)


def _breaking(spellings: Iterable[str]) -> re.Pattern[str]:
    """Return what finds the first character of anything that may spell a token, or be the start of one."""
    seconds: dict[str, set[str]] = {}
    for spelling in spellings:
        if len(spelling) < 2 or BREAK in spelling:
            raise ModelError(
                "server_error", "The vocabulary has a special token that cannot be told."
            )
        seconds.setdefault(spelling[0], set()).add(re.escape(spelling[1]))
    starts = (f"{re.escape(c)}(?=[{''.join(sorted(n))}]|\\Z)" for c, n in sorted(seconds.items()))
    return re.compile("|".join([BREAK, *starts]))


def _flagged(added: Mapping[str, Any]) -> AddedToken:
    flags = {flag: added[flag] for flag in ("lstrip", "rstrip", "single_word")}
    return AddedToken(added["content"], **flags, normalized=False)


def _whole(text: str) -> str:
    return _JOINT.sub(r"\1", text) if BREAK in text else text
