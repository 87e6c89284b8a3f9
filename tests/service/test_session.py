"""The rules of one connection, as scripts of inputs and what they lead to."""

import itertools

import pytest

from service.errors import Ending
from service.session import Begin, End, Forget, Session, SessionLimits, Step
from turnwire.v1 import events_pb2, responses_pb2


def create(
    stream_id: str | None = None, parent: str | None = None, model: str = "m"
) -> events_pb2.ClientEvent:
    settings = responses_pb2.Settings(model=model, previous_response_id=parent)
    body = responses_pb2.CreateResponse(settings=settings)
    return events_pb2.ClientEvent(stream_id=stream_id, create=body)


def session(**limits: int) -> Session:
    numbers = itertools.count()
    return Session(
        SessionLimits(
            active=limits.get("active", 16),
            lanes=limits.get("lanes", 32),
            waiting=limits.get("waiting", 64),
            waiting_bytes=limits.get("waiting_bytes", 1 << 26),
        ),
        lambda prefix: f"{prefix}_{next(numbers)}",
    )


def begun(step: Step) -> list[tuple[str | None, str]]:
    return [
        (effect.stream_id, effect.create.settings.model)
        for effect in step.effects
        if isinstance(effect, Begin)
    ]


def codes(step: Step) -> list[str]:
    return [event.error.error.code for event in step.events]


def test_a_create_begins_at_once_on_a_free_lane() -> None:
    assert begun(session().receive(create())) == [(None, "m")]


def test_turns_of_a_lane_follow_each_other_in_order() -> None:
    rules = session()
    rules.receive(create(model="first"))
    assert begun(rules.receive(create(model="second"))) == []
    assert begun(rules.receive(create(model="third"))) == []
    assert begun(rules.finished(None, "resp_1")) == [(None, "second")]
    assert begun(rules.finished(None, "resp_2")) == [(None, "third")]


def test_lanes_run_side_by_side() -> None:
    rules = session()
    rules.receive(create("a"))
    assert begun(rules.receive(create("b"))) == [("b", "m")]
    assert begun(rules.receive(create())) == [(None, "m")]


@pytest.mark.rule("LN-4")
def test_turns_beyond_the_active_limit_wait_for_any_lane_to_end() -> None:
    rules = session(active=2)
    rules.receive(create("a"))
    rules.receive(create("b"))
    assert begun(rules.receive(create("c"))) == []
    assert begun(rules.finished("a", "resp_a")) == [("c", "m")]


def test_a_lane_that_waits_for_itself_does_not_hold_up_the_others() -> None:
    rules = session(active=2)
    rules.receive(create("a", model="a1"))
    rules.receive(create("b"))
    rules.receive(create("a", model="a2"))
    rules.receive(create("c"))
    assert begun(rules.finished("b", "resp_b")) == [("c", "m")]


@pytest.mark.rule("LN-5")
def test_more_waiting_turns_than_allowed_are_refused_with_their_lane() -> None:
    rules = session(waiting=1)
    rules.receive(create("a"))
    rules.receive(create("a"))
    step = rules.receive(create("a"))
    assert codes(step) == ["rate_limit_exceeded"]
    assert step.events[0].stream_id == "a"


def test_waiting_turns_may_weigh_only_so_much() -> None:
    rules = session(waiting_bytes=150)
    rules.receive(create(model="x" * 500))
    assert codes(rules.receive(create(model="x" * 500))) == []
    assert codes(rules.receive(create())) == ["rate_limit_exceeded"]
    assert begun(rules.finished(None, "resp_1")) == [(None, "x" * 500)]
    assert codes(rules.receive(create())) == []


def test_one_lane_too_many_is_refused_with_its_name() -> None:
    rules = session(lanes=2)
    rules.receive(create())
    rules.receive(create("a"))
    rules.receive(create("b"))
    step = rules.receive(create("c"))
    assert codes(step) == ["websocket_stream_limit_reached"]
    assert step.events[0].stream_id == "c"
    assert begun(rules.finished("a", "resp_a")) == []
    assert begun(rules.receive(create("a"))) == [("a", "m")]


def test_a_bad_lane_name_is_refused_without_a_lane() -> None:
    for name in ("", "a b", "ü", "x" * 257, "a\n"):
        step = session().receive(create(name))
        assert codes(step) == ["invalid_stream_id"]
        assert not step.events[0].HasField("stream_id")
        assert step.events[0].error.error.param == "stream_id"


def test_an_event_of_no_known_type_is_refused() -> None:
    for event in (events_pb2.ClientEvent(), events_pb2.ClientEvent(other_json="{}")):
        assert codes(session().receive(event)) == ["unknown_event_type"]


def test_a_refusal_changes_nothing() -> None:
    rules = session()
    rules.receive(create(model="first"))
    rules.receive(events_pb2.ClientEvent())
    assert begun(rules.receive(create(model="second"))) == []
    assert begun(rules.finished(None, "resp_1")) == [(None, "second")]


def test_steering_what_is_not_being_made_is_given_back() -> None:
    steer = events_pb2.SteerResponse(previous_response_id="resp_1", input_text="faster")
    step = session().receive(events_pb2.ClientEvent(steer=steer))
    failed = step.events[0].steer_failed
    assert failed.error.code == "response_not_found"
    assert failed.steer.previous_response_id == "resp_1"
    assert failed.steer.input_text == "faster"


def test_a_lanes_burst_keeps_no_other_lane_waiting() -> None:
    rules = session(active=1)
    for _ in range(5):
        rules.receive(create("busy"))
    rules.receive(create("quiet", model="first"))
    rules.receive(create("other", model="second"))
    order = []
    for stream_id in ("busy", "quiet", "other"):
        [(began, _)] = begun(rules.finished(stream_id, "resp"))
        order.append(began)
    assert order == ["quiet", "other", "busy"]


def test_a_lanes_burst_leaves_room_for_another_lane_to_wait() -> None:
    rules = session(active=1, waiting=2)
    for _ in range(3):
        rules.receive(create("busy"))
    assert codes(rules.receive(create("busy"))) == ["rate_limit_exceeded"]
    assert codes(rules.receive(create("quiet"))) == []
    assert codes(rules.receive(create("quiet"))) == ["rate_limit_exceeded"]


@pytest.mark.rule("SS-6")
def test_a_failure_forgets_the_parent_it_referred_to() -> None:
    rules = session()
    rules.receive(create(parent="resp_1"))
    assert rules.failed(None).effects == [Forget("resp_1")]


def test_a_failure_without_a_parent_forgets_nothing() -> None:
    rules = session()
    rules.receive(create())
    assert list(rules.failed(None).effects) == []


@pytest.mark.rule("SS-7")
def test_a_fork_that_fails_leaves_the_lane_it_came_from_alone() -> None:
    rules = session()
    rules.receive(create("a"))
    rules.finished("a", "resp_a")
    rules.receive(create("b", parent="resp_a"))
    assert list(rules.failed("b").effects) == []
    rules.receive(create("a", parent="resp_a"))
    assert rules.failed("a").effects == [Forget("resp_a")]


@pytest.mark.rule("LN-8")
def test_the_next_turn_begins_after_a_failure() -> None:
    rules = session()
    rules.receive(create(parent="resp_1"))
    rules.receive(create(model="second"))
    step = rules.failed(None)
    assert begun(step) == [(None, "second")]


def test_an_idle_connection_ends_at_once_and_is_told() -> None:
    step = session().leave(Ending.AGE, "old")
    assert codes(step) == ["websocket_connection_limit_reached"]
    [end] = step.effects
    assert isinstance(end, End)
    assert end.error.ending is Ending.AGE


def test_a_connection_that_is_to_end_finishes_what_runs_and_begins_nothing() -> None:
    rules = session()
    rules.receive(create("a"))
    rules.receive(create("a"))
    step = rules.leave(Ending.DRAIN, "going")
    assert [event.stream_id for event in step.events] == ["a"]
    assert list(step.effects) == []
    assert codes(rules.receive(create("b"))) == ["websocket_connection_limit_reached"]
    step = rules.finished("a", "resp_a")
    assert codes(step) == ["websocket_connection_limit_reached"]
    assert [type(effect) for effect in step.effects] == [End]


def test_it_knows_when_it_is_idle() -> None:
    rules = session()
    assert rules.idle
    rules.receive(create())
    assert not rules.idle
    rules.finished(None, "resp_1")
    assert rules.idle
