import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backends.chat.inputs import WrappedInput


def read(*pieces: str) -> str:
    wrapped = WrappedInput()
    return "".join([*map(wrapped.push, pieces), wrapped.end()])


@given(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.booleans(),
    st.lists(st.integers(0, 200), max_size=8),
)
def test_an_input_is_the_same_however_it_is_cut(
    said: str, ascii_only: bool, cuts: list[int]
) -> None:
    wrapped = json.dumps({"input": said}, ensure_ascii=ascii_only)
    places = [0, *sorted(min(cut, len(wrapped)) for cut in cuts), len(wrapped)]
    pieces = [wrapped[a:b] for a, b in itertools.pairwise(places)]
    assert read(*pieces) == said


def test_an_input_streams() -> None:
    wrapped = WrappedInput()
    pieces = [' {"inp', 'ut" : "ab', "c\\", "n\\u00", "e4d", '"}']
    assert [wrapped.push(piece) for piece in pieces] == ["", "ab", "c", "\n", "äd", ""]
    assert wrapped.end() == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"input": "a\nb"}', "a\nb"),
        (r'{"input": "\d+ \x"}', r"\d+ \x"),
        (r'{"input": "a\ud83d"}', "a\ufffd"),
        (r'{"input": "a\ud83dxyz"}', "a\ufffdxyz"),
        (r'{"input": "a\ud83d\u0041b"}', "a\ufffdAb"),
        (r'{"input": "\ud83d\ud83d\ude00"}', "\ufffd\U0001f600"),
        (r'{"input": "\uXYZW, then"}', r"\uXYZW, then"),
        (" " * 5000 + '{"input": "late"}', "late"),
        ('{"input": "early"' + " " * 5000 + "}", "early"),
        (r'{"input": "\udc00"}', "\ufffd"),
        (r'{"input": "cut o', "cut o"),
        (r'{"input": "cut \u00', "cut "),
        ('{"other": 1, "input": "x"}', "x"),
        ('{"input": 5}', '{"input": 5}'),
        ("print(1)", "print(1)"),
        ('["a"]', '["a"]'),
        ("", ""),
    ],
)
def test_what_models_write_in_its_place_is_understood(arguments: str, said: str) -> None:
    assert read(arguments) == said
    assert read(*arguments) == said


def test_what_makes_no_character_is_told_before_the_end() -> None:
    wrapped = WrappedInput()
    assert wrapped.push(r'{"input": "\ud83dx\ud83d\n\uXYZW and ') == "\ufffdx\ufffd\n\\uXYZW and "
