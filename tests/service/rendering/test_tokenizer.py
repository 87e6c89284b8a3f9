import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from service.errors import ModelError
from service.rendering import Piece
from service.rendering.tokenizer import LocalTokenizer
from service.rendering.vocabulary import vocabulary_of
from tests.vocabularies import SPECIAL, STRICT, TAGS, real_files, real_tokenizer, tiny_files

TINY = LocalTokenizer.of(tiny_files(STRICT))
SPELLED = st.lists(st.sampled_from([*SPECIAL, *TAGS, *"<|>/ \na\u00e9"])).map("".join)


def encode(tokenizer: LocalTokenizer, *fragments: Sequence[Piece]) -> list[list[int]]:
    return asyncio.run(tokenizer.encode(fragments))


@given(SPELLED)
def test_text_never_becomes_a_special_token(text: str) -> None:
    ids = encode(TINY, [text])[0]
    assert not TINY.specials.spelling.keys() & set(ids)
    assert TINY.detokenizer(frozenset()).push(ids) == text


def test_ids_pass_through_and_texts_are_tokenised_one_by_one() -> None:
    one, other = encode(TINY, ["question"], ["answer"])
    assert encode(TINY, [3, "question", "answer", 4], [], ["answer", 5]) == [
        [3, *one, *other, 4],
        [],
        [*other, 5],
    ]


def test_a_long_text_has_the_ids_of_a_short_one_many_times() -> None:
    line = encode(TINY, ["answer\n"])[0]
    assert encode(TINY, ["answer\n" * 10_000])[0] == line * 10_000


async def test_others_go_on_while_a_long_text_is_tokenised() -> None:
    tokenizing = asyncio.ensure_future(TINY.encode([["another answer\n" * 10_000]]))
    await asyncio.sleep(0)
    assert not tokenizing.done()
    await tokenizing


@pytest.mark.parametrize("model", ["qwen3", "llama3_1", "deepseek_v3"])
def test_ids_are_those_of_the_whole_vocabulary(model: str) -> None:
    files, tokenizer = real_files(model), real_tokenizer(model)
    said = "Hello,  w\u00f6rld!\n\n\n def f(x):\n\treturn 1234567 \u4f60\u597d \U0001f980 </div>"
    special, token = next(iter(tokenizer.specials.ids.items()))
    whole = vocabulary_of(files["tokenizer.json"])
    expected = whole.encode(f"{said}{special}{said}", add_special_tokens=False).ids
    assert encode(tokenizer, [said, token, said])[0] == expected


@pytest.mark.parametrize("model", ["qwen3", "llama3_1", "deepseek_v3"])
def test_no_special_token_of_a_real_vocabulary_can_be_said(model: str) -> None:
    tokenizer = real_tokenizer(model)
    spelled = list(tokenizer.specials.ids)[:300]
    said = [f"a{one}b {one}" for one in spelled]
    for ids in encode(tokenizer, *([text] for text in said)):
        assert not tokenizer.specials.spelling.keys() & set(ids)


def sentencepiece(prepend: str, **flags: bool) -> dict[str, bytes]:
    """Return a vocabulary of characters, two of which merge into something that spells a token."""
    words = ["\u2581", *"SEPabcdefghijklmnopqrstuvwxyzA,: 0123456789\n", "SE", "SEP", "\u2581a"]
    merges = [("S", "E"), ("SE", "P"), ("\u2581", "a")]
    tokenizer = Tokenizer(
        models.BPE({w: n for n, w in enumerate(dict.fromkeys(words))}, merges, unk_token="A")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([AddedToken("SEP", **flags)])
    return {"tokenizer.json": tokenizer.to_str().encode()}


def test_text_behind_a_special_token_does_not_begin_the_prompt() -> None:
    tokenizer = LocalTokenizer.of(sentencepiece("first"))
    assert tokenizer.detokenizer(frozenset()).push(encode(tokenizer, ["b"])[0]) == "b"


def test_no_merge_makes_a_special_token() -> None:
    tokenizer = LocalTokenizer.of(sentencepiece("always"))
    (token,) = tokenizer.specials.spelling
    ids = encode(tokenizer, ["SEP"])[0]
    assert token not in ids
    assert tokenizer.detokenizer(frozenset()).push(ids) == " SEP"


def edited(files: dict[str, bytes], **members: Any) -> dict[str, bytes]:
    parsed = json.loads(files["tokenizer.json"])
    parsed["model"] |= members
    return {"tokenizer.json": json.dumps(parsed).encode()}


def test_what_stands_for_the_unknown_may_be_special() -> None:
    tokenizer = LocalTokenizer.of(edited(sentencepiece("never"), unk_token="SEP"))
    (special,) = tokenizer.specials.spelling
    (letter,) = encode(tokenizer, ["b"])[0]
    assert encode(tokenizer, ["b\u00e9b"])[0] == [letter, special, letter]
    assert special not in encode(tokenizer, ["SEP"])[0]


def test_a_special_token_cannot_be_said_by_another_spelling_of_its_id() -> None:
    files = sentencepiece("never")
    model = json.loads(files["tokenizer.json"])["model"]
    other = {**model["vocab"], "bc": model["vocab"]["SEP"]}
    tokenizer = LocalTokenizer.of(edited(files, vocab=other, merges=[*model["merges"], ["b", "c"]]))
    assert not tokenizer.specials.spelling.keys() & set(encode(tokenizer, ["bc"])[0])


def test_an_unknown_compatibility_form_of_a_special_token_is_none() -> None:
    parsed = json.loads(sentencepiece("never")["tokenizer.json"])
    parsed["normalizer"] = {"type": "NFKC"}
    tokenizer = LocalTokenizer.of({"tokenizer.json": json.dumps(parsed).encode()})
    ids = encode(tokenizer, ["\uff33\uff25\uff30"])[0]
    assert tokenizer.detokenizer(frozenset()).push(ids) == "SEP"
    assert not tokenizer.specials.spelling.keys() & set(ids)


def test_text_that_cannot_be_tokenised_is_refused() -> None:
    with pytest.raises(ModelError) as error:
        encode(TINY, ["half of a \ud83e"])
    assert error.value.code == "invalid_prompt"


@pytest.mark.parametrize("token", [-1, 1 << 31, 1 << 40, 10**30])
def test_ids_that_no_vocabulary_has_write_nothing(token: int) -> None:
    assert TINY.detokenizer(frozenset()).push([token, *encode(TINY, ["a"])[0], token]) == "a"


def test_a_vocabulary_that_cannot_tell_piece_by_piece_is_refused() -> None:
    with pytest.raises(ModelError, match="piece by piece"):
        LocalTokenizer.of(sentencepiece("always", single_word=True))


def test_a_model_without_a_vocabulary_is_refused() -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        LocalTokenizer.of({})


@pytest.mark.parametrize(
    "model", [{"type": "Unigram", "vocab": [], "merges": []}, {"type": "BPE"}, None]
)
def test_a_vocabulary_of_another_kind_is_refused(model: Any) -> None:
    parsed = {**json.loads(tiny_files(STRICT)["tokenizer.json"]), "model": model}
    with pytest.raises(ModelError):
        LocalTokenizer.of({"tokenizer.json": json.dumps(parsed).encode()})


def test_vocabularies_are_told_apart() -> None:
    assert TINY.identity == LocalTokenizer.of(tiny_files(STRICT)).identity
    assert TINY.identity != LocalTokenizer.of(sentencepiece("always")).identity
