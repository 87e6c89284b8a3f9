"""Token ids made in this process, with a model's own vocabulary."""

import asyncio
import hashlib
from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Tokenizer as Vocabulary

from service.errors import ModelError
from service.rendering import Files, Piece
from service.rendering.detokenizer import StreamDetokenizer, Writing, writes_bytes, writing_of
from service.rendering.specials import Specials
from service.rendering.vocabulary import parsed_vocabulary, vocabulary_of, without

_LONG = 32 * 1024
"""Characters: more are tokenised in a thread, since everybody else would wait for them."""
_WORDS = "A word,\n\n  and  more: \u00fcber 42 \u4f60\u597d \U0001f980"


class LocalTokenizer:
    """Makes ids of pieces."""

    def __init__(
        self, identity: str, text: Vocabulary, specials: Specials, writing: Writing
    ) -> None:
        """`text` is the vocabulary without special tokens."""
        self.identity = identity
        self.specials = specials
        self._text = text
        self._writing = writing
        self._written: dict[int, bytes] = {}  # of what was sampled: no larger than the vocabulary

    @classmethod
    def of(cls, files: Files) -> "LocalTokenizer":
        """Make one of a model's files. Takes a second or so. Raises `ModelError` for the operator."""
        if (file := files.get("tokenizer.json")) is None:
            raise ModelError("server_error", "The model comes without a tokenizer.json.")
        parsed = parsed_vocabulary(file)
        specials = Specials(parsed["added_tokens"])
        text = vocabulary_of(without(specials, parsed))
        identity = hashlib.blake2b(file, digest_size=16).hexdigest()
        tokenizer = cls(identity, text, specials, writing_of(parsed))
        if not writes_bytes(parsed):  # words of bytes do not depend on where in a prompt they stand
            tokenizer.check(file)
        return tokenizer

    def detokenizer(self, ends: frozenset[int]) -> StreamDetokenizer:
        """Return what makes text of one answer; `ends` are the tokens that end it."""
        return StreamDetokenizer(self._bytes, ends)

    async def encode(self, fragments: Iterable[Sequence[Piece]]) -> list[list[int]]:
        """Tokenise fragments, all at once.

        Nothing is kept of them: what was said belongs to its conversation.
        """
        parts = list(fragments)
        texts = [piece for part in parts for piece in part if isinstance(piece, str)]
        if sum(map(len, texts)) > _LONG:
            return await asyncio.to_thread(self._encoded, parts, texts)
        return self._encoded(parts, texts)

    def check(self, file: bytes) -> None:
        """Raise `ModelError` unless text comes to the same ids alone as between special tokens."""
        special, between = next(iter(self.specials.ids.items()), ("", None))
        whole = vocabulary_of(file).encode(
            f"{special}{_WORDS}{special}{_WORDS}", add_special_tokens=False
        )
        alone = self._ids([_WORDS])[0]
        joined = [token for token in (between, *alone, between, *alone) if token is not None]
        if between is not None and whole.ids != joined:
            raise ModelError(
                "server_error", "The model's tokenizer cannot tell a conversation piece by piece."
            )

    def _encoded(self, parts: Sequence[Sequence[Piece]], texts: Sequence[str]) -> list[list[int]]:
        encoded = iter(self._ids(texts))
        return [_joined(part, encoded) for part in parts]

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts. Raises `ModelError`."""
        try:
            encodings = self._text.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises nothing closer
            raise ModelError(
                "invalid_prompt", "The model's tokenizer does not take this text."
            ) from error
        return [encoding.ids for encoding in encodings]

    def _bytes(self, token: int) -> bytes:
        """Return what a token writes; nothing if there is no such token."""
        if (written := self._written.get(token)) is not None:
            return written
        if spelling := self.specials.spelling.get(token):
            written = spelling.encode()
        elif (word := self._word(token)) is not None:
            written = self._writing(word)
        else:
            return b""
        self._written[token] = written
        return written

    def _word(self, token: int) -> str | None:
        try:
            return self._text.id_to_token(token)
        except OverflowError:  # nobody's id, whatever an engine says
            return None


def _joined(part: Sequence[Piece], encoded: Iterator[Sequence[int]]) -> list[int]:
    ids: list[int] = []
    for piece in part:
        if isinstance(piece, str):
            ids += next(encoded)
        else:
            ids.append(piece)
    return ids
