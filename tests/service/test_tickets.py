"""What a ticket is good for, and how long."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import RateLimited, Unauthenticated
from service.identity import Identity
from service.tickets import LIFETIME, MOST, Tickets


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tickets(clock: Clock) -> Tickets:
    return Tickets(clock)


def refused(tickets: Tickets, ticket: str) -> str:
    with pytest.raises(Unauthenticated) as refusal:
        tickets.redeem(ticket)
    return refusal.value.message


def test_a_ticket_stands_for_its_tenant(tickets: Tickets) -> None:
    one, two = tickets.issue(Identity("alice")), tickets.issue(Identity("bob"))
    assert tickets.redeem(two).tenant == "bob"
    assert tickets.redeem(one).tenant == "alice"


def test_a_ticket_is_good_once(tickets: Tickets) -> None:
    ticket = tickets.issue(Identity("alice"))
    tickets.redeem(ticket)
    refused(tickets, ticket)


@pytest.mark.rule("BR-2")
def test_a_ticket_is_good_for_a_minute(tickets: Tickets, clock: Clock) -> None:
    early, late = tickets.issue(Identity("alice")), tickets.issue(Identity("alice"))
    clock.now += LIFETIME - 0.001
    assert tickets.redeem(early).tenant == "alice"
    clock.now += 0.001
    refused(tickets, late)
    assert len(tickets) == 0


def test_whatever_is_wrong_with_a_ticket_the_answer_is_that_of_a_bad_key(
    tickets: Tickets, clock: Clock
) -> None:
    used, expired = tickets.issue(Identity("alice")), tickets.issue(Identity("alice"))
    tickets.redeem(used)
    clock.now += LIFETIME
    good = tickets.issue(Identity("alice"))
    wrong = ["", "x", good[:-1], good + "A", good.swapcase(), "\udcff"]
    assert {refused(tickets, ticket) for ticket in [used, expired, *wrong]} == {
        Unauthenticated().message
    }
    assert tickets.redeem(good).tenant == "alice"


def test_a_tenant_has_so_many_unused_tickets_and_keeps_nobody_else_from_theirs(
    tickets: Tickets, clock: Clock
) -> None:
    [*_, last] = [tickets.issue(Identity("alice")) for _ in range(MOST)]
    with pytest.raises(RateLimited, match=str(LIFETIME)):
        tickets.issue(Identity("alice"))
    assert tickets.redeem(tickets.issue(Identity("bob"))).tenant == "bob"
    tickets.redeem(last)
    tickets.issue(Identity("alice"))
    clock.now += LIFETIME
    tickets.issue(Identity("alice"))
    assert len(tickets) == 1


def test_a_ticket_is_nowhere_to_be_found(tickets: Tickets) -> None:
    ticket = tickets.issue(Identity("alice"))
    held = gc.get_referents(*gc.get_referents(*vars(tickets).values()), *vars(tickets).values())
    assert any(isinstance(value, bytes) for value in held)
    assert not [value for value in held if value in (ticket, ticket.encode())]
    assert ticket not in repr(vars(tickets))


def test_tickets_are_tokens_that_a_subprotocol_may_be_made_of(tickets: Tickets) -> None:
    made = {tickets.issue(Identity("alice")) for _ in range(100)}
    assert len(made) == 100
    assert all(len(ticket) == 43 for ticket in made)  # 256 bits in base64
    assert all(ticket.replace("-", "").replace("_", "").isalnum() for ticket in made)


steps = st.one_of(
    st.tuples(st.just("issue"), st.sampled_from(["alice", "bob"])),
    st.tuples(st.just("redeem"), st.integers(0, 30)),
    st.tuples(st.just("wait"), st.sampled_from([1, LIFETIME // 2, LIFETIME])),
)


@given(st.lists(steps, max_size=60))
def test_each_ticket_is_redeemed_at_most_once_in_time_and_for_its_own_tenant(
    script: list[tuple[str, str | int]],
) -> None:
    clock = Clock()
    tickets = Tickets(clock)
    issued: list[tuple[str, str, float]] = []
    used: set[str] = set()
    for verb, what in script:
        if verb == "wait":
            clock.now += float(what)
        elif verb == "issue":
            issued.append((tickets.issue(Identity(str(what))), str(what), clock.now))
        elif issued:
            ticket, tenant, born = issued[int(what) % len(issued)]
            if ticket in used or clock.now - born >= LIFETIME:
                refused(tickets, ticket)
            else:
                assert tickets.redeem(ticket).tenant == tenant
            used.add(ticket)
    alive = [t for t, _, born in issued if t not in used and clock.now - born < LIFETIME]
    assert len(tickets) >= len(alive)
