"""What was asked on every connection, and what came of it: nothing is lost, doubled, or another lane's."""

import dataclasses
from collections import Counter, defaultdict, deque

from tests.faults.model import OK, Asked, Response, is_let_go, is_recited
from tests.faults.told import TERMINAL, Told
from turnwire.v1 import events_pb2, responses_pb2

RECITE = "#recite"
AWAY = "websocket_connection_limit_reached"
_STATUSES = {"conversation_locked": 409, "item_not_found": 404, "server_error": 503}
_IMMEDIATE = {"unsupported_parameter"}
"""Refused as they are sent, whatever waits in their lane."""
_ANSWERS = {"steer_accepted", "steer_pending", "steer_failed", "interrupt_accepted"}
_CALLS = ("function_call", "custom_tool_call")
Lane = tuple[int, str | None]
"""A connection's number, and a lane of it."""


class Ledger:
    """All that was asked and heard, on every connection of one engine."""

    def __init__(self) -> None:
        self.asked: dict[str, Asked] = {}
        self.responses: dict[str, Response] = {}
        self.draining = False
        self.oddities: defaultdict[int, Counter[str]] = defaultdict(Counter)
        """Codes of errors that other things than creates were sent for, by connection."""
        self.interrupts: Counter[int] = Counter()
        """Interruptions that were sent and not refused, by connection."""
        self.steers: defaultdict[str, deque[str]] = defaultdict(deque)
        """Marks of steerings that were sent and not answered, by their response's id."""
        self._waiting: defaultdict[Lane, deque[Asked]] = defaultdict(deque)
        self._current: dict[Lane, Response] = {}
        self._latest: dict[Lane, str] = {}
        self._farewells: Counter[int] = Counter()
        self._accepted: dict[str, Response] = {}
        self._given_back: Counter[str] = Counter()

    def send(self, asked: Asked) -> None:
        """Note that a create is about to be sent."""
        self.asked[asked.mark] = asked
        self._waiting[asked.line, asked.lane].append(asked)

    def unanswered(self, line: int) -> int:
        """Return how much of what was sent on a connection waits for an answer or its end."""
        creates = sum(asked.line == line and not asked.over for asked in self.asked.values())
        return creates + self.oddities[line].total() + self._steerings(line)

    def lose(self, line: int) -> None:
        """A connection was left: nothing more will be heard on it."""
        for asked in self.asked.values():
            asked.over = asked.over or asked.line == line

    def latest(self, line: int, lane: str | None) -> Response | None:
        """Return what a lane's next turn is expected to continue."""
        return self.responses.get(self._latest.get((line, lane), ""))

    def hear(self, line: int, event: events_pb2.ServerEvent) -> None:
        """Check an event, and note what it says."""
        lane = (line, event.stream_id if event.HasField("stream_id") else None)
        kind = event.WhichOneof("kind") or ""
        if kind == "error":
            self._refuse(lane, event.error)
        elif kind == "created":
            self._create(lane, event)
        elif kind in _ANSWERS:
            self._answer(lane, event)
        else:
            self._go_on(lane, event)

    def check(self, line: int) -> None:
        """Check that a connection that was not left has nothing open, steerings included."""
        assert not self.unanswered(line), "a create, a steering or what is none was never answered"

    def _steerings(self, line: int) -> int:
        """Return how many accepted steerings were not followed, given back, or told to wait."""
        return sum(
            response.line == line and not (response.followed or self._given_back[steer_id])
            for steer_id, response in self._accepted.items()
        )

    def _create(self, lane: Lane, event: events_pb2.ServerEvent) -> None:
        begun = event.created.response
        asked = self.asked[begun.settings.metadata["mark"]]
        assert (asked.line, asked.lane) == lane, "another lane's response"
        assert begun.id not in self.responses, "a response was created twice"
        current = self._current.get(lane)
        assert current is None or current.told.over, "two responses of a lane at once"
        if asked.made is None:
            assert asked is self._next(lane), "turns of a lane out of order, or one is lost"
            assert OK in asked.allowed(), f"{asked.script} should be {set(asked.allowed())}"
            response = self._first(asked, begun)
        else:
            response = self._successor(asked, begun)
        self.responses[begun.id] = self._current[lane] = response
        response.told.hear(event)

    def _first(self, asked: Asked, begun: responses_pb2.Response) -> Response:
        parent = asked.parent
        assert begun.settings.store == asked.stored
        if not asked.conversation:
            assert begun.settings.previous_response_id == (parent.id if parent else "")
        before = parent.marks if parent else ()
        uncertain = asked.conversation or before is None or (parent is not None and parent.steered)
        asked.made = Response(
            id=begun.id,
            lane=asked.lane,
            line=asked.line,
            stored=asked.stored,
            marks=None if uncertain or before is None else (*before, asked.mark),
            own=(asked.mark,),
            told=Told(),
        )
        return asked.made

    def _successor(self, asked: Asked, begun: responses_pb2.Response) -> Response:
        parent = self.responses[begun.settings.previous_response_id]
        assert parent.steered, "a response that nobody asked for"
        assert self._current[asked.line, asked.lane] is parent, "another turn came in between"
        assert (parent.line, parent.lane) == (asked.line, asked.lane)
        made = dataclasses.replace(parent, id=begun.id, told=Told(), steered=[], disturbed=False)
        parent.followed, made.followed = True, False
        made.own = tuple(parent.steered)
        made.marks = (*parent.marks, *made.own) if parent.marks is not None else None
        made.deleting = made.deleted = made.failed_on = made.gone = False
        asked.made, asked.parent, asked.script = made, parent, RECITE
        asked.over = False
        return made

    def _answer(self, lane: Lane, event: events_pb2.ServerEvent) -> None:
        """Hear an answer to a steering or an interruption."""
        kind = event.WhichOneof("kind") or ""
        body = getattr(event, kind)
        if kind == "steer_failed" and body.steer.id:
            assert body.steer.id in self._accepted
            self._given_back[body.steer.id] += 1
            assert self._given_back[body.steer.id] == 1, "given back twice"
        if kind == "steer_pending":
            self._current[lane].followed = True
        if kind == "steer_failed" and not body.steer.id:
            self.steers[body.steer.previous_response_id].popleft()
        if kind == "steer_accepted":
            response = self._accepted[body.steer.id] = self._current[lane]
            response.disturbed = True
            response.steered.append(self.steers[response.id].popleft())
        if event.sequence_number == 0:
            assert kind in {"steer_failed", "interrupt_accepted"}
            return
        target = (
            body.response_id if kind == "interrupt_accepted" else body.steer.previous_response_id
        )
        assert self._current[lane].id == target, "an answer on another response's lane"
        self._current[lane].told.hear(event)

    def _go_on(self, lane: Lane, event: events_pb2.ServerEvent) -> None:
        response = self._current[lane]
        response.told.hear(event)
        if event.WhichOneof("kind") in TERMINAL:
            asked = self.asked[response.told.response.settings.metadata["mark"]]
            assert asked.made is response
            self._end(lane, asked, response)

    def _end(self, lane: Lane, asked: Asked, response: Response) -> None:
        asked.over = True
        status = response.status
        assert status in self._ends(asked, response), f"{asked.script} ended as {status}"
        ended = response.told.response
        assert response.stored == ended.settings.store
        before = asked.parent.calls if asked.parent else frozenset[str]()
        called = (getattr(item, kind).call_id for item in ended.output for kind in _CALLS)
        response.answered = asked.answers
        response.calls = (before - asked.answers) | {call for call in called if call}
        if asked.script == RECITE and status == "completed":
            self._recited(asked, response)
        if response.continuable:
            self._latest[lane] = response.id
        elif status == "failed":
            self._failed(asked)

    def _recited(self, asked: Asked, response: Response) -> None:
        said = tuple(response.told.text.split())
        if response.marks is not None:
            assert said == response.marks, f"{said} is not the conversation {response.marks}"
        elif not asked.conversation:
            assert is_recited(asked.parent, response.own, said), (
                f"{said} does not end {response.own}"
            )
        response.marks = said

    def _ends(self, asked: Asked, response: Response) -> set[str]:
        expected = {"completed"}
        if "fail" in asked.script:
            expected = {"failed"}
        elif "length" in asked.script:
            expected = {"incomplete"}
        if response.disturbed:
            expected |= {"completed", "incomplete", "cancelled"}
        return expected | ({"failed"} if self.draining else set())

    def _refuse(self, lane: Lane, error: events_pb2.ErrorEvent) -> None:
        code = error.error.code
        line = lane[0]
        if self._is_odd(line, code):
            return
        waiting = self._waiting[lane]
        if code == AWAY and not waiting:
            assert lane[1] is None
            self._farewells[line] += 1
            assert self._farewells[line] == 1, "one connection ended twice"
            return
        # What began before the server went away may be told of that after what waited.
        asked = waiting.pop() if code == AWAY else self._next(lane, code)
        allowed = asked.allowed() | ({AWAY, "server_error"} if self.draining else set())
        assert code in allowed, f"{asked.script} was refused with {code}, not {set(allowed)}"
        assert error.status == _STATUSES.get(code, 400)
        asked.over = True
        if code not in {*_IMMEDIATE, AWAY}:
            self._failed(asked)

    def _is_odd(self, line: int, code: str) -> bool:
        """Tell whether an error answers something that is no create, and strike that off."""
        if code == "response_not_found" and self.interrupts[line]:
            self.interrupts[line] -= 1
            return True
        if self.oddities[line][code]:
            self.oddities[line][code] -= 1
            return True
        return False

    def _next(self, lane: Lane, code: str = "") -> Asked:
        """Return the create of a lane that is to be answered next, and strike it off."""
        waiting = self._waiting[lane]
        for asked in waiting:
            if (asked.expected <= _IMMEDIATE) == (code in _IMMEDIATE):
                waiting.remove(asked)
                return asked
        raise AssertionError(f"an answer to nothing on lane {lane}")

    def _failed(self, asked: Asked) -> None:
        """Let go of the parent, as the connection does."""
        parent = asked.parent
        if parent is None or parent.stored:
            return
        others = {
            latest
            for lane, latest in self._latest.items()
            if lane[0] == asked.line and lane[1] != asked.lane
        }
        if parent.id in others:  # a fork that fails leaves the lane it came from its parent
            return
        parent.failed_on = True
        if is_let_go(parent, asked, self.asked.values()):
            parent.gone = True
