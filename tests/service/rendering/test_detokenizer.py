import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ModelError
from service.rendering.detokenizer import StreamDetokenizer, writing_of
from service.rendering.tokenizer import LocalTokenizer
from tests.vocabularies import STRICT, tiny_files

TOKENIZER = LocalTokenizer.of(tiny_files(STRICT))
OVER = TOKENIZER.specials.ids["<|over|>"]
TURN = TOKENIZER.specials.ids["<|turn|>"]


def ids_of(text: str) -> list[int]:
    return asyncio.run(TOKENIZER.encode([[text]]))[0]


def answer() -> StreamDetokenizer:
    return TOKENIZER.detokenizer(frozenset({OVER}))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.data())
def test_a_text_comes_out_whole_however_its_tokens_arrive(text: str, data: st.DataObject) -> None:
    ids, detokenizer, told = ids_of(text), answer(), ""
    while ids:
        size = data.draw(st.integers(1, len(ids)))
        told += detokenizer.push(ids[:size])
        assert text.startswith(told)
        ids = ids[size:]
    assert told + detokenizer.end() == text


def test_a_character_is_told_with_its_last_byte() -> None:
    detokenizer = answer()
    told = [detokenizer.push([token]) for token in ids_of("\U0001f980")]
    assert told == ["", "", "", "\U0001f980"]


def test_what_never_becomes_a_character_is_replaced() -> None:
    detokenizer = answer()
    assert detokenizer.push(ids_of("\U0001f980")[:2]) == ""
    assert detokenizer.end() == "\N{REPLACEMENT CHARACTER}"


def test_special_tokens_are_spelled_out_but_not_the_ends_of_answers() -> None:
    assert answer().push([TURN, *ids_of("a"), OVER]) == "<|turn|>a"


def test_a_token_that_does_not_exist_says_nothing() -> None:
    assert answer().push([10**6]) == ""


def test_spaces_and_bytes_are_written_as_sentencepiece_has_them() -> None:
    decoders = [{"type": "Replace"}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    writing = writing_of({"decoder": {"type": "Sequence", "decoders": decoders}})
    words = ["\u2581Hello", "<0xC3>", "<0xA9>", "\u2581\u2581"]
    assert b"".join(map(writing, words)).decode() == " Hello\u00e9  "


@pytest.mark.parametrize("decoder", [None, {"type": "WordPiece"}])
def test_a_vocabulary_that_writes_otherwise_is_refused(decoder: Any) -> None:
    with pytest.raises(ModelError):
        writing_of({"decoder": decoder})
