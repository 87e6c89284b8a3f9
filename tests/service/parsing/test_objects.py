import json

from hypothesis import given
from hypothesis import strategies as st

from service.parsing.objects import ObjectEnd

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\{}[]\n'),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text(alphabet='a"\\{}'), VALUES, max_size=4), st.integers(1, 9))
def test_the_end_of_an_object_is_found_however_it_is_cut(
    value: dict[str, object], size: int
) -> None:
    written = json.dumps(value)
    end = ObjectEnd()
    read = 0
    for start in range(0, len(written), size):
        piece = written[start : start + size] + ("}\n" if start + size >= len(written) else "")
        found = end.find(piece)
        read += found if found >= 0 else len(piece)
        assert (found >= 0) == (start + size >= len(written))
    assert read == len(written)


def test_depth_is_only_counted() -> None:
    depth = 1_000_000
    assert ObjectEnd().find('{"a":' * depth) == -1
    assert ObjectEnd().find('{"a":' * depth + "}" * depth + " ") == 6 * depth
