import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backends.sse import Events
from service.errors import ModelError

STREAM = (
    b": a comment\n\n"
    b'event: chunk\ndata: {"a": 1}\nid: 7\n\n'
    b"data:no space\r\n\r\n"
    b"data: first line\ndata:  second line\n\n"
    b"retry: 10\n\n\n"
    b"data: \xc3\xa9\n\n"
    b"data: [DONE]\n\n"
    b"data: never ends"
)
SAID = [
    b'{"a": 1}',
    b"no space",
    b"first line\n second line",
    "é".encode(),
    b"[DONE]",
]


def test_all_events_of_one_read_come_at_once() -> None:
    assert Events().feed(STREAM) == SAID


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_it_does_not_matter_where_reads_are_cut(cuts: list[int]) -> None:
    events, places = Events(), [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in itertools.pairwise(places)]
    assert [event for piece in pieces for event in events.feed(piece)] == SAID


def test_an_event_is_told_with_the_read_that_ends_it() -> None:
    events = Events()
    assert events.feed(b"data: a\n") == []
    assert events.feed(b"\ndata: b") == [b"a"]
    assert events.feed(b"\n\n") == [b"b"]


def test_data_may_be_empty() -> None:
    assert Events().feed(b"data:\n\n") == [b""]


@pytest.mark.parametrize(
    "piece", [b"data: " + b"x" * 50, b"data: x\n" * 50, b"x" * 50, b"data:\n" * 50, b"x"]
)
def test_an_event_without_end_is_given_up(piece: bytes) -> None:
    events = Events(largest=1000)
    with pytest.raises(ModelError, match="too large"):
        list(map(events.feed, [piece] * 1001))


def test_many_events_are_not_one_large_one() -> None:
    events = Events(largest=100)
    assert len(events.feed(b"data: 0123456789\n\n" * 1000)) == 1000
    assert len([events.feed(b"data: 0123456789\n\n") for _ in range(1000)]) == 1000
