"""The choice of a server: its rules, for any servers and loads."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from service.servers.choice import (
    Candidate,
    admitted,
    bound,
    choose,
    least_loaded,
    preferred,
)

WEIGHTS = st.floats(0.01, 100)
LOADS = st.integers(0, 50)
KEYS = st.binary(max_size=16)


@st.composite
def servers(draw: st.DrawFn) -> list[Candidate]:
    names = draw(st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, unique=True))
    return [Candidate(name, draw(WEIGHTS), draw(LOADS), draw(st.booleans())) for name in names]


def idle(*names: str) -> list[Candidate]:
    return [Candidate(name, 1, 0) for name in names]


@given(servers(), KEYS, st.text("abcdef", max_size=4))
def test_no_choice_exceeds_the_bound(candidates: list[Candidate], key: bytes, last: str) -> None:
    chosen = choose(candidates, key, last)
    server = next(one for one in candidates if one.name == chosen.name)
    assert server.load + 1 <= bound(server, candidates)


@given(servers(), KEYS, st.data())
def test_a_conversation_stays_unless_its_server_is_overloaded(
    candidates: list[Candidate], key: bytes, data: st.DataObject
) -> None:
    last = data.draw(st.sampled_from(candidates))
    chosen = choose(candidates, key, last.name)
    if last.load + 1 <= bound(last, candidates):
        assert chosen == (last.name, "hit")
    else:
        assert chosen == (least_loaded(candidates, key).name, "busy")


@given(servers(), KEYS)
def test_the_order_of_servers_does_not_matter(candidates: list[Candidate], key: bytes) -> None:
    assert choose(candidates, key, None) == choose(candidates[::-1], key, None)


@given(servers(), KEYS, st.data())
def test_only_conversations_of_a_lost_server_move(
    candidates: list[Candidate], key: bytes, data: st.DataObject
) -> None:
    lost = data.draw(st.sampled_from(candidates))
    before = preferred(candidates, key)
    left = [one for one in candidates if one is not lost]
    if left and before is not lost:
        assert preferred(left, key) == before


def test_conversations_spread_by_weight() -> None:
    candidates = [Candidate("a", 3, 0), Candidate("b", 1, 0)]
    counts = Counter(preferred(candidates, str(key).encode()).name for key in range(4000))
    assert 2800 < counts["a"] < 3200


def test_a_server_that_cannot_be_asked_is_told_from_one_that_was_never() -> None:
    assert choose(idle("a", "b"), b"key", None).why == "new"
    assert choose(idle("a", "b"), b"key", "c").why == "away"


def test_an_overloaded_favourite_yields_to_the_least_loaded() -> None:
    candidates = [Candidate("home", 1, 3), Candidate("b", 1, 1), Candidate("c", 1, 0)]
    assert choose(candidates, b"key", "home") == ("c", "busy")
    assert choose([*candidates[1:], Candidate("home", 2, 3)], b"key", "home") == ("home", "hit")


def test_a_server_on_trial_takes_one_turn_while_others_are_proven() -> None:
    trial, busy = Candidate("trial", 1, 0, True), Candidate("busy", 1, 1, True)
    proven = Candidate("proven", 1, 9)
    assert list(admitted([trial, busy, proven])) == [proven, trial]
    assert list(admitted([trial, busy])) == [trial, busy]


@given(servers())
def test_someone_is_always_admitted(candidates: list[Candidate]) -> None:
    assert set(admitted(candidates)) <= set(candidates)
    assert admitted(candidates)
