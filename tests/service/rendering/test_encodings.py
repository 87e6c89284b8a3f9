from hypothesis import given
from hypothesis import strategies as st

from service.rendering.encodings import Decimal

IDS = st.lists(st.integers(0, 2**31), max_size=8)


@given(IDS, IDS)
def test_parts_joined_are_the_whole(one: list[int], other: list[int]) -> None:
    decimal = Decimal()
    joined = decimal.join([decimal.encode(one), decimal.encode(other)])
    assert joined == decimal.encode([*one, *other]) == ",".join(map(str, [*one, *other])).encode()
    assert decimal.decode(joined) == [*one, *other]
