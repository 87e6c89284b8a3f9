"""The special tokens of a vocabulary: known by their spelling, and never met in what somebody said.

A template is rendered as text, in which its own special tokens are spelled out. What users and tools say
may spell them too, so that is broken up before and put together again once the text is in pieces.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from service.errors import ModelError
from service.rendering import Piece

BREAK = "\U0001093f"
"""Breaks up what spells a token. Printable, without case, and used in no language of today; where somebody
says it, it is said twice."""

_JOINT = re.compile(f"{BREAK}({BREAK}?)")
_BLANK = (
    " \t\r\n\v\f\N{LOWER ONE EIGHTH BLOCK}"  # the last one is how some vocabularies spell a space
)
_WORD = re.compile(r"\w")
_SPACE = re.compile(r"\s*")


class _Token(NamedTuple):
    """A special token, and what of the text around it belongs to it."""

    id: int
    lstrip: bool
    rstrip: bool
    single_word: bool


class Rests:
    """What would complete a special token, if a template spelled its beginning and went on with text."""

    def __init__(self, rests: Iterable[str]) -> None:
        self._rests = frozenset(rest.casefold() for rest in rests)
        self._firsts = frozenset(rest[0] for rest in self._rests)

    def __len__(self) -> int:
        return len(self._rests)

    def begun(self, said: str) -> bool:
        """Whether a text, white space in front aside, is one, begins with one, or begins one."""
        if not self._rests or (words := said.lstrip())[:1].casefold() not in self._firsts:
            return False
        words = words[: max(map(len, self._rests))].casefold()
        return any(rest.startswith(words) or words.startswith(rest) for rest in self._rests)


_NOTHING_BEGUN = Rests(())


class Specials:
    """Special tokens, by their spelling."""

    def __init__(self, added: Iterable[Mapping[str, Any]]) -> None:
        """Take them from the `added_tokens` of a `tokenizer.json`. Raises `ModelError`."""
        special = [token for token in added if is_special(token)]
        self.ids: Mapping[str, int] = {token["content"]: token["id"] for token in special}
        self.spelling: Mapping[int, str] = {token: text for text, token in self.ids.items()}
        self._tokens = {token["content"]: _token_of(token) for token in special}
        self._spelled = _breaking(self.ids)
        longest_first = sorted(self.ids, key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def rests(self, constants: Iterable[str]) -> Rests:
        """Return what completes a special token behind any of a template's constants."""
        ends = tuple(constants)
        return Rests(
            spelling[length:]
            for spelling in self.ids
            for length in range(1, len(spelling))
            if any(end.endswith(spelling[:length]) for end in ends)
        )

    def broken(self, said: Any, rests: Rests = _NOTHING_BEGUN) -> Any:
        """Return JSON, in none of whose texts a special token is spelled, nor the rest of one begins."""
        match said:
            case str():
                broken = self._spelled.sub(rf"\g<0>{BREAK}", said)
                return _kept_apart(broken) if rests.begun(said) else broken
            case Mapping():
                return {self.broken(k, rests): self.broken(v, rests) for k, v in said.items()}
            case list() | tuple():
                return [self.broken(value, rests) for value in said]
            case _:
                return said

    def pieces(self, text: str) -> list[Piece]:
        """Split text at special tokens, and put together what was broken up.

        White space beside a token is part of it where the vocabulary says so.
        """
        pieces: list[Piece] = []
        at = 0
        for token, start, end in self._found(text):
            if at < start:
                pieces.append(_whole(text[at:start]))
            pieces.append(token)
            at = end
        return [*pieces, _whole(text[at:])] if at < len(text) else pieces

    def _found(self, text: str) -> Iterator[tuple[int, int, int]]:
        """Yield the tokens in a text, each with where it starts and ends, as `tokenizers` finds them."""
        at = 0
        for found in self._any.finditer(text):
            token, (start, end) = self._tokens[found[0]], found.span()
            if token.single_word and _is_in_word(text, start, end):
                continue
            if token.lstrip:
                start = at + len(text[at:start].rstrip())
            if token.rstrip and (space := _SPACE.match(text, end)):
                end = space.end()
            yield token.id, start, end
            at = end

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


def _token_of(added: Mapping[str, Any]) -> _Token:
    return _Token(added["id"], added["lstrip"], added["rstrip"], added["single_word"])


def _is_in_word(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - 1) : start], text[end : end + 1]
    return bool(_WORD.match(before) or _WORD.match(after))


def _kept_apart(broken: str) -> str:
    """Return text that completes nothing, whatever stands in front of it, also once it is stripped."""
    words = broken.lstrip()
    return f"{broken[: len(broken) - len(words)]}{BREAK}{words}"


def _whole(text: str) -> str:
    return _JOINT.sub(r"\1", text) if BREAK in text else text
