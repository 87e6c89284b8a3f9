from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from service.errors import ModelError
from service.rendering.specials import BREAK, Specials


def added(content: str, token: int, **flags: bool) -> dict[str, Any]:
    plain = {"lstrip": False, "rstrip": False, "single_word": False, "special": True}
    return {"content": content, "id": token, "normalized": False, **plain, **flags}


def flagged(token: dict[str, Any]) -> AddedToken:
    flags = {flag: token[flag] for flag in ("lstrip", "rstrip", "single_word")}
    return AddedToken(token["content"], normalized=False, **flags)


ADDED = [
    added("<|a|>", 0),
    added("<|ab|>", 7, rstrip=True),
    added("<think>", 8, special=False),
    added("[X]", 9, lstrip=True),
]
SPECIALS = Specials(ADDED)
SPELLING = st.text(st.sampled_from([*"<|ab>think[X] \n", BREAK])) | st.sampled_from(
    list(SPECIALS.ids)
)
TEXT = st.lists(SPELLING).map("".join)


def test_text_is_split_at_special_tokens() -> None:
    assert SPECIALS.pieces("one<|a|>two<think>") == ["one", 0, "two", 8]


def test_white_space_beside_a_token_is_swallowed_where_the_vocabulary_says_so() -> None:
    assert SPECIALS.pieces("<|ab|>\n x \n[X] y<|a|> z") == [7, "x", 9, " y", 0, " z"]


@given(st.lists(st.sampled_from([*"<|ab> \n\u00a0\u00fc[X]", "ab", "<|ab|>", "[X]"])).map("".join))
def test_tokens_are_found_where_the_library_of_tokenizers_finds_them(text: str) -> None:
    tokens = [*ADDED, added("ab", 11, single_word=True), added("<|ab|>[", 12)]
    library = Tokenizer(WordLevel({"": 0}, unk_token=""))
    library.add_tokens([flagged(token) for token in tokens])
    ids = {library.token_to_id(token["content"]): token["id"] for token in tokens}
    split = library.encode(text, add_special_tokens=False)
    found = zip(split.ids, split.offsets, strict=True)
    expected = [ids[token] if token else text[start:end] for token, (start, end) in found]
    assert Specials(tokens).pieces(text) == expected


@given(TEXT)
def test_what_was_said_comes_out_as_it_was_whatever_it_spells(said: str) -> None:
    assert "".join(map(str, SPECIALS.pieces(SPECIALS.broken(said)))) == said
    assert all(isinstance(piece, str) for piece in SPECIALS.pieces(SPECIALS.broken(said)))


@given(TEXT, TEXT)
def test_what_was_said_side_by_side_spells_no_token_either(one: str, other: str) -> None:
    assert SPECIALS.pieces(SPECIALS.broken(one) + SPECIALS.broken(other)) == (
        [one + other] if one + other else []
    )


@given(TEXT)
def test_a_token_is_found_beside_whatever_was_said(said: str) -> None:
    pieces = SPECIALS.pieces(f"{SPECIALS.broken(said)}<|a|>{SPECIALS.broken(said)}")
    assert pieces == [*([said] if said else []), 0, *([said] if said else [])]


def test_json_is_broken_up_everywhere() -> None:
    broken = SPECIALS.broken({"<|a|>": ["<think>", {"k": "[X]"}, 1, None, True]})
    assert list(broken) == [f"<{BREAK}|a|>"]
    assert broken[f"<{BREAK}|a|>"][2:] == [1, None, True]
    assert "<think>" not in str(broken)
    assert "[X]" not in str(broken)


@pytest.mark.parametrize("said", ["a|>", "a|", " \nab|>x", "A|>", "think>", "t", f"a|{BREAK}>"])
@given(TEXT)
def test_what_was_said_completes_nothing_that_a_template_began(said: str, more: str) -> None:
    rests = SPECIALS.rests(["\n<", "<|"])
    broken = SPECIALS.broken([said, more], rests)
    for beginning in ("<", "<|"):
        pieces = SPECIALS.pieces(beginning + "".join(broken))
        assert pieces == [f"{beginning}{said}{more}"]
        pieces = SPECIALS.pieces(beginning + "".join(broken).strip() + "|>")
        assert all(isinstance(piece, str) for piece in pieces)


def test_what_completes_no_token_stays_as_it_is() -> None:
    rests = SPECIALS.rests(["\n<", "over"])
    assert SPECIALS.broken(["type", "a|>", "", " ", "x think>"], rests) == [
        *("type", "a|>", "", " ", "x think>")
    ]
    assert not SPECIALS.rests(["nothing", ""])


def test_white_space_and_single_characters_are_words() -> None:
    specials = Specials([added("\n\n", 1, special=False), added("\u00a7", 2, special=False)])
    assert not specials.ids
    assert specials.pieces("a\n\n\u00a7") == ["a\n\n\u00a7"]


def test_a_special_token_that_cannot_be_broken_up_is_refused() -> None:
    with pytest.raises(ModelError):
        Specials([added("\u00a7", 1)])
