"""Steering, interruption and turn-taking: what becomes of all that a client asks for, in any order."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import Ending, Failed, Refusal
from service.session import Begin, End, Interrupt, Session, SessionLimits, Steer, Step, Tell
from service.steering import is_steerable, is_valid, required_input, successor
from turnwire.v1 import events_pb2, items_pb2, responses_pb2

OWED = ('{"type":"function_call_output","call_id":"call_1"}',)
REFUSED = Refusal("model_not_found", "No such model.")


@dataclasses.dataclass
class Client:
    """A session, what it did, and the turns that run in it."""

    limits: SessionLimits = dataclasses.field(default_factory=SessionLimits)
    begun: list[Begin] = dataclasses.field(default_factory=list)
    running: dict[str | None, str] = dataclasses.field(default_factory=dict)
    """The response that each busy lane makes."""
    heard: list[events_pb2.ServerEvent] = dataclasses.field(default_factory=list)
    steered: list[Steer | Interrupt] = dataclasses.field(default_factory=list)
    ended: list[End] = dataclasses.field(default_factory=list)
    said: list[Begin] = dataclasses.field(default_factory=list)
    """What was begun and has a response."""

    def __post_init__(self) -> None:
        numbers = itertools.count()
        self.rules = Session(self.limits, lambda prefix: f"{prefix}_{next(numbers)}")
        self._responses = itertools.count()

    def take(self, step: Step) -> None:
        """Perform a step as the engine does."""
        self.heard += step.events
        for effect in step.effects:
            match effect:
                case Begin():
                    self.begun.append(effect)
                    self.running[effect.stream_id] = f"resp_{next(self._responses)}"
                case Tell():
                    self.heard.append(effect.event)
                case Steer() | Interrupt():
                    self.steered.append(effect)
                case End():
                    self.ended.append(effect)

    def making(self, lane: str | None = None) -> str:
        """Let the response of a turn that has begun exist; return its id."""
        if self.begun_only(lane):
            self.said.append(self._begin_of(lane))
            self.rules.began(lane, self.running[lane])
        return self.running[lane]

    def begun_only(self, lane: str | None) -> bool:
        """Tell whether a running turn has no response yet."""
        return not any(self._begin_of(lane) is begin for begin in self.said)

    def create(self, lane: str | None = None, text: str = "", parent: str | None = None) -> None:
        settings = responses_pb2.Settings(model="m", previous_response_id=parent)
        create = responses_pb2.CreateResponse(settings=settings, input_text=text)
        self.take(self.rules.receive(events_pb2.ClientEvent(stream_id=lane, create=create)))

    def steer(self, response_id: str, text: str) -> events_pb2.ServerEvent:
        steer = events_pb2.SteerResponse(previous_response_id=response_id, input_text=text)
        self.take(self.rules.receive(events_pb2.ClientEvent(steer=steer)))
        return self.heard[-1]

    def interrupt(self, response_id: str) -> events_pb2.ServerEvent:
        event = events_pb2.InterruptResponse(response_id=response_id)
        self.take(self.rules.receive(events_pb2.ClientEvent(interrupt=event)))
        return self.heard[-1]

    def finish(self, lane: str | None = None, owed: Sequence[str] = ()) -> str:
        response_id = self.making(lane)
        del self.running[lane]
        self.take(self.rules.finished(lane, response_id, owed))
        return response_id

    def end(self, lane: str | None, end: Callable[[Session], Step]) -> None:
        del self.running[lane]
        self.take(end(self.rules))

    def leave(self) -> None:
        self.take(self.rules.leave(Ending.DRAIN, "Going."))

    def codes(self) -> list[str]:
        """Return the codes of all steering that failed."""
        failed = [event.steer_failed for event in self.heard if event.HasField("steer_failed")]
        return [event.error.code for event in failed]

    def _begin_of(self, lane: str | None) -> Begin:
        return next(begin for begin in reversed(self.begun) if begin.stream_id == lane)

    def kinds(self) -> list[str | None]:
        return [event.WhichOneof("kind") for event in self.heard]


def texts(begin: Begin) -> list[str]:
    """Return what a turn's input says."""
    if begin.create.HasField("input_text"):
        return [begin.create.input_text]
    return [item.message.content_text for item in begin.create.input]


def steered_client(lane: str | None = None) -> tuple[Client, str]:
    """Return a client that has steered a running response, and that response."""
    client = Client()
    client.create(lane, "first")
    response_id = client.making(lane)
    assert client.steer(response_id, "left").HasField("steer_accepted")
    return client, response_id


@pytest.mark.rule("ST-1", "ST-3")
def test_steering_is_accepted_under_an_id_and_followed_with_the_same_settings() -> None:
    client, response_id = steered_client("a")
    assert client.steered == [Steer("a")]
    client.finish("a")
    follows = client.begun[-1]
    assert follows.stream_id == "a"
    assert follows.create.settings.model == "m"
    assert follows.create.settings.previous_response_id == response_id
    assert texts(follows) == ["left"]


@pytest.mark.rule("ST-3")
def test_what_follows_goes_before_what_waits_in_its_lane() -> None:
    client, _ = steered_client()
    client.create(None, "second")
    client.create(None, "third")
    for _ in range(4):
        client.finish()
    said = [texts(begin) for begin in client.begun]
    assert said == [["first"], ["left"], ["second"], ["third"]]


@pytest.mark.rule("ST-3")
def test_several_steerings_follow_together_in_the_order_they_came() -> None:
    client, response_id = steered_client()
    client.steer(response_id, "right")
    client.finish()
    assert texts(client.begun[-1]) == ["left", "right"]


@pytest.mark.rule("ST-4")
def test_steering_waits_for_owed_outputs_and_goes_before_them() -> None:
    client, response_id = steered_client()
    client.steer(response_id, "right")
    client.finish(owed=OWED)
    assert client.kinds()[-2:] == ["steer_pending"] * 2
    assert list(client.heard[-1].steer_pending.required_input_json) == list(OWED)
    client.create(None, "42", parent=response_id)
    assert texts(client.begun[-1]) == ["left", "right", "42"]


@pytest.mark.rule("ST-4", "LN-9")
def test_steering_that_waits_for_outputs_goes_with_them_on_whatever_lane_they_come() -> None:
    client, response_id = steered_client("a")
    client.finish("a", OWED)
    client.create("b", "42", parent=response_id)
    assert texts(client.begun[-1]) == ["left", "42"]


@pytest.mark.rule("ST-4", "ST-7")
def test_steering_that_waited_for_outputs_is_given_back_when_those_are_refused() -> None:
    client, response_id = steered_client()
    client.finish(owed=OWED)
    client.create(None, "42", parent=response_id)
    client.end(None, lambda rules: rules.refused(None, REFUSED))
    assert client.codes() == ["successor_creation_failed"]
    assert "error" in client.kinds()


@pytest.mark.rule("ST-7")
def test_steering_that_waits_for_outputs_outlives_the_next_one_that_does() -> None:
    client, first = steered_client()
    client.finish(owed=OWED)
    client.create(None, "something else")
    second = client.making()
    client.steer(second, "right")
    client.finish(owed=OWED)
    client.create(None, "42", parent=first)
    given_back = [
        e.steer_failed.steer.input_text for e in client.heard if e.HasField("steer_failed")
    ]
    assert "left" in [*given_back, *texts(client.begun[-1])]


@pytest.mark.rule("ST-7")
def test_steering_that_waits_for_outputs_is_given_back_when_the_connection_ends() -> None:
    client, _ = steered_client()
    client.finish(owed=OWED)
    client.leave()
    assert client.codes() == ["successor_creation_failed"]


@pytest.mark.rule("ST-7")
@pytest.mark.parametrize("fate", ["failed", "cancelled"])
def test_steering_of_what_cannot_be_continued_is_given_back(fate: str) -> None:
    client, _ = steered_client()
    client.end(None, lambda rules: getattr(rules, fate)(None))
    assert client.codes() == ["successor_creation_failed"]
    assert client.heard[-1].steer_failed.steer.input_text == "left"
    assert client.heard[-1].steer_failed.steer.id == "steer_0"


@pytest.mark.rule("ST-7")
def test_a_successor_that_is_refused_is_told_as_steering_that_failed_and_not_as_an_error() -> None:
    client, _ = steered_client()
    client.finish()
    client.end(None, lambda rules: rules.refused(None, REFUSED))
    assert client.codes() == ["successor_creation_failed"]
    assert client.heard[-1].steer_failed.steer.input_text == "left"
    assert "error" not in client.kinds()


@pytest.mark.rule("ST-7", "LV-6")
def test_steering_is_given_back_when_the_connection_is_to_end_before_what_follows() -> None:
    client, _ = steered_client()
    client.leave()
    client.finish()
    assert client.codes() == ["successor_creation_failed"]
    assert len(client.begun) == 1
    assert len(client.ended) == 1


def test_a_connection_that_was_steered_as_it_ended_is_idle() -> None:
    client, _ = steered_client()
    client.leave()
    client.finish()
    assert client.rules.idle


@pytest.mark.rule("ST-5")
def test_what_is_about_to_end_is_not_steered() -> None:
    client = Client()
    client.create()
    response_id = client.making()
    client.interrupt(response_id)
    assert client.steer(response_id, "left").steer_failed.error.code == "response_not_active"
    client.finish()
    told = client.steer(response_id, "left").steer_failed
    assert told.error.code == "response_already_completed"


@pytest.mark.rule("EV-2")
def test_steering_of_what_has_ended_is_answered_on_its_lane() -> None:
    client = Client()
    client.create("a")
    response_id = client.finish("a")
    assert client.steer(response_id, "left").stream_id == "a"


@pytest.mark.rule("ST-7", "IN-1")
def test_an_interruption_takes_back_what_was_steered_before() -> None:
    client, response_id = steered_client()
    assert client.interrupt(response_id).HasField("interrupt_accepted")
    client.finish()
    assert len(client.begun) == 1
    assert client.codes() == ["response_not_active"]
    assert client.heard[-1].steer_failed.steer.input_text == "left"


@pytest.mark.rule("IN-1")
def test_an_interruption_that_comes_too_late_is_accepted_and_harms_nothing_that_follows() -> None:
    client = Client()
    client.create("a", "first")
    client.create("a", "second")
    response_id = client.finish("a")
    accepted = client.interrupt(response_id)
    assert accepted.interrupt_accepted.response_id == response_id
    assert accepted.stream_id == "a"
    assert client.steered == []
    second = client.making("a")
    assert client.steer(second, "left").HasField("steer_accepted")
    client.finish("a")
    assert texts(client.begun[-1]) == ["left"]


@pytest.mark.rule("IN-3", "ST-5")
def test_no_id_is_no_response() -> None:
    client = Client()
    client.create("a")
    assert client.steer("", "left").steer_failed.error.code == "response_not_found"
    assert client.interrupt("").error.error.code == "response_not_found"


@pytest.mark.rule("ST-3")
def test_what_follows_has_no_setting_that_its_request_did_not_have() -> None:
    settings = responses_pb2.Settings(model="m")
    follows = successor(responses_pb2.CreateResponse(settings=settings), "resp_1", [])
    assert follows.settings == responses_pb2.Settings(model="m", previous_response_id="resp_1")


@pytest.mark.rule("ST-3", "CR-12")
@pytest.mark.parametrize("member", ["generate", "prewarm"])
def test_what_follows_a_warm_up_is_none(member: str) -> None:
    create = responses_pb2.CreateResponse(settings=responses_pb2.Settings(model="m"))
    if member == "generate":
        create.generate = False
    else:
        create.settings.prompt_cache_options.prewarm = True
        create.settings.prompt_cache_options.ttl = "12h"
    follows = successor(create, "resp_1", [])
    assert not follows.HasField("generate")
    assert not follows.settings.prompt_cache_options.prewarm
    assert follows.settings.prompt_cache_options.ttl == create.settings.prompt_cache_options.ttl


@pytest.mark.rule("ST-6")
def test_conversations_and_what_compacts_by_itself_cannot_be_steered() -> None:
    for settings, expected in (
        (responses_pb2.Settings(), True),
        (responses_pb2.Settings(conversation_id="conv_1"), False),
        (responses_pb2.Settings(conversation=responses_pb2.ConversationReference(id="c")), False),
        (
            responses_pb2.Settings(
                context_management=[responses_pb2.ContextManagement(type="compaction")]
            ),
            False,
        ),
    ):
        assert is_steerable(responses_pb2.CreateResponse(settings=settings)) is expected


@pytest.mark.rule("ST-5")
def test_only_users_messages_of_texts_images_and_files_can_steer() -> None:
    text = items_pb2.ContentPart(input_text=items_pb2.Text(text="left"))
    said = items_pb2.ContentPart(output_text=items_pb2.OutputText(text="left"))
    user = items_pb2.Item(message=items_pb2.Message(role="user", content=[text]))
    model = items_pb2.Item(message=items_pb2.Message(role="assistant", content=[said]))
    odd = items_pb2.Item(message=items_pb2.Message(role="user", content=[said]))
    for items, expected in (([user], True), ([user, model], False), ([odd], False), ([], False)):
        assert is_valid(events_pb2.SteerResponse(input=items)) is expected


@pytest.mark.rule("ST-4")
def test_what_is_owed_are_the_outputs_of_calls_in_order() -> None:
    output = [
        items_pb2.Item(function_call=items_pb2.FunctionCall(call_id="call_1", name="f")),
        items_pb2.Item(message=items_pb2.Message(role="assistant")),
        items_pb2.Item(custom_tool_call=items_pb2.CustomToolCall(call_id="call_2", name="g")),
    ]
    assert [orjson.loads(stub)["call_id"] for stub in required_input(output)] == [
        "call_1",
        "call_2",
    ]


LANES = [None, "a", "b", "c"]
ENDINGS = ("finished", "owing", "failed", "cancelled", "refused")
ACTS = st.one_of(
    st.tuples(st.just("create"), st.sampled_from(LANES)),
    st.tuples(st.just("steer"), st.sampled_from(LANES)),
    st.tuples(st.just("interrupt"), st.sampled_from(LANES)),
    st.tuples(st.just("continue"), st.sampled_from(LANES)),
    *(st.tuples(st.just(word), st.sampled_from(LANES)) for word in ENDINGS),
)


class Accounting:
    """Whatever was steered has one fate: it was said, given back, or waits for outputs."""

    def __init__(self) -> None:
        self.client = Client(SessionLimits(active=3))
        self.accepted: list[str] = []
        self.latest: dict[str | None, str] = {}
        self._texts = map(str, itertools.count())

    def act(self, verb: str, lane: str | None) -> None:
        client = self.client
        if verb in {"create", "continue"}:
            parent = self.latest.get(lane) if verb == "continue" else None
            client.create(lane, "own", parent)
        elif lane not in client.running:
            return
        elif verb == "steer":
            text = next(self._texts)
            if client.steer(client.making(lane), text).HasField("steer_accepted"):
                self.accepted.append(text)
        elif verb == "interrupt":
            client.interrupt(client.making(lane))
        else:
            self._end(verb, lane)

    def finish_all(self) -> None:
        while self.client.running:
            lane = next(iter(self.client.running))
            self._end("finished", lane)

    def _end(self, verb: str, lane: str | None) -> None:
        """End a turn; what has a response is not refused any more."""
        match verb:
            case "finished":
                self.latest[lane] = self.client.finish(lane)
            case "owing":
                self.latest[lane] = self.client.finish(lane, OWED)
            case "refused" if self.client.begun_only(lane):
                self.client.end(lane, lambda rules: rules.refused(lane, Failed()))
            case "failed" | "cancelled":
                self.client.making(lane)
                self.client.end(lane, lambda rules: getattr(rules, verb)(lane))

    def fates(self) -> Counter[str]:
        said = [text for begin in self.client.said for text in texts(begin) if text != "own"]
        failed = [e.steer_failed.steer for e in self.client.heard if e.HasField("steer_failed")]
        given_back = [steer.input_text for steer in failed if steer.id]
        return Counter([*said, *given_back])

    def pending(self) -> set[str]:
        heard = self.client.heard
        ids = [e.steer_pending.steer.id for e in heard if e.HasField("steer_pending")]
        accepted = [e.steer_accepted.steer.id for e in heard if e.HasField("steer_accepted")]
        return {self.accepted[accepted.index(steer_id)] for steer_id in ids}


@pytest.mark.rule("ST-3", "ST-4", "ST-7")
@given(st.lists(ACTS, max_size=40))
def test_whatever_is_accepted_is_said_once_or_given_back_once_unless_it_waits_for_outputs(
    acts: list[tuple[str, str | None]],
) -> None:
    accounting = Accounting()
    for verb, lane in acts:
        accounting.act(verb, lane)
    accounting.finish_all()
    assert accounting.client.rules.idle
    fates = accounting.fates()
    assert all(count == 1 for count in fates.values()), fates
    assert set(accounting.accepted) - set(fates) <= accounting.pending()


@pytest.mark.rule("LN-1", "LN-4")
@given(
    st.lists(st.one_of(st.sampled_from(LANES), st.integers(0, 3)), max_size=120), st.integers(1, 3)
)
def test_no_lanes_burst_delays_anothers_first_by_more_than_one_round(
    acts: list[str | int | None], active: int
) -> None:
    """A lane's name asks for a turn there; a number ends that running turn."""
    client = Client(SessionLimits(active=active))
    asked: dict[str | None, list[str]] = {lane: [] for lane in LANES}
    overtaken: dict[str | None, Counter[str | None]] = {}
    refused = 0
    for number, act in enumerate([*([None] * 61), *acts]):
        seen = len(client.begun)
        if isinstance(act, int):
            if act < len(client.running):
                client.finish(list(client.running)[act])
        else:
            client.create(act, str(number))
            if refused + 1 == client.kinds().count("error"):
                refused += 1
            else:
                asked[act].append(str(number))
        for begin in client.begun[seen:]:
            assert [asked[begin.stream_id].pop(0)] == texts(begin)
            overtaken.pop(begin.stream_id, None)
            for counts in overtaken.values():
                counts[begin.stream_id] += 1
        for lane, waiting in asked.items():
            if waiting and lane not in client.running:
                assert len(client.running) == active, "a lane waits for nothing"
                assert all(n <= 1 for n in overtaken.setdefault(lane, Counter()).values())


@pytest.mark.rule("LV-6", "LN-5")
@given(st.lists(ACTS, max_size=30))
def test_whoever_leaves_with_everything_pending_is_told_of_every_turn_and_ends_once(
    acts: list[tuple[str, str | None]],
) -> None:
    accounting = Accounting()
    for verb, lane in acts:
        accounting.act(verb, lane)
    client = accounting.client
    before, waited = len(client.heard), _asked(client, acts, accounting)
    client.leave()
    refused = [e for e in client.heard[before:] if e.HasField("error")]
    assert len(refused) == waited + (not client.running)
    begun = len(client.begun)
    client.create("a", "too late")
    assert client.heard[-1].error.error.code == "websocket_connection_limit_reached"
    accounting.finish_all()
    assert len(client.begun) == begun
    assert len(client.ended) == 1
    assert client.heard[-1].error.error.code == "websocket_connection_limit_reached"
    assert all(count == 1 for count in accounting.fates().values())


def _asked(client: Client, acts: Sequence[tuple[str, str | None]], accounting: Accounting) -> int:
    """Return how many turns of the client's own wait."""
    own = sum("own" in texts(begin) for begin in client.begun)
    return sum(verb in {"create", "continue"} for verb, _ in acts) - own
