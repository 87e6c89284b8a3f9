"""The rules of one connection: lanes, their order and bounds, what failures and departures do.

Pure: it never waits, reads a clock or draws a random number. Every input returns one `Step`: events
to deliver, then effects to perform, in that order. The rules are those of docs/protocol.md,
"Lanes and state".
"""

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from service.errors import Ending, RateLimited, Refusal, SessionError
from service.limits import MIB
from turnwire.v1 import events_pb2, responses_pb2

_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}\Z")


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLimits:
    """What one connection may have under way."""

    active: int = 16
    """Turns that run at once; further ones wait."""
    lanes: int = 32
    """Named lanes in the connection's life."""
    waiting: int = 64
    """Turns that wait; further ones are refused."""
    waiting_bytes: int = 64 * MIB
    """What the turns that wait may weigh together, unless it is only one."""


class Begin(NamedTuple):
    """Begin this turn."""

    stream_id: str | None
    create: responses_pb2.CreateResponse


class Forget(NamedTuple):
    """Let go of this response: a turn that continued it failed in its own lane."""

    response_id: str


class End(NamedTuple):
    """End the connection."""

    error: SessionError


Effect: TypeAlias = Begin | Forget | End


class Step(NamedTuple):
    """What an input leads to."""

    events: Sequence[events_pb2.ServerEvent] = ()
    effects: Sequence[Effect] = ()


@dataclass(slots=True)
class _Lane:
    waiting: deque[responses_pb2.CreateResponse] = field(default_factory=deque)
    running: responses_pb2.CreateResponse | None = None
    latest: str = ""
    """The lane's last finished response: what its next turn is expected to continue."""

    def needs(self, response_id: str) -> bool:
        """Tell whether a turn of the lane continues a response, or is expected to."""
        creates = [*self.waiting, *([self.running] if self.running else [])]
        parents = (create.settings.previous_response_id for create in creates)
        return self.latest == response_id or response_id in parents


class Session:
    """One connection's lanes. A lane's turns follow each other; lanes run side by side."""

    __slots__ = ("_lanes", "_leaving", "_limits", "_order", "_running", "_waiting_bytes")

    def __init__(self, limits: SessionLimits) -> None:
        self._limits = limits
        self._lanes: dict[str | None, _Lane] = {}
        self._order: deque[str | None] = deque()
        """The lanes of all waiting turns, in the order they came."""
        self._waiting_bytes = 0
        self._running = 0
        self._leaving: SessionError | None = None

    @property
    def idle(self) -> bool:
        """Whether no turn runs or waits."""
        return self._running == 0 and not self._order

    def receive(self, event: events_pb2.ClientEvent) -> Step:
        """Take a client's event."""
        stream_id = event.stream_id if event.HasField("stream_id") else None
        try:
            self._check_stream_id(stream_id)
            return self._dispatch(event, stream_id)
        except _Unaddressed as refusal:
            return Step([refusal.event()])
        except Refusal as refusal:
            return Step([addressed(refusal.event(), stream_id)])

    def finished(self, stream_id: str | None, response_id: str) -> Step:
        """A turn ended and its response can be continued."""
        self._lanes[stream_id].latest = response_id
        return self._ended(stream_id, ())

    def failed(self, stream_id: str | None) -> Step:
        """A turn ended and its response cannot be continued.

        The parent it referred to is forgotten, unless another lane stands on it: a client that
        retries sends the whole context. A fork that failed must not harm the lane it left.
        """
        create = self._lanes[stream_id].running
        parent = create.settings.previous_response_id if create else ""
        others = (lane for name, lane in self._lanes.items() if name != stream_id)
        if not parent or any(lane.needs(parent) for lane in others):
            return self._ended(stream_id, ())
        return self._ended(stream_id, [Forget(parent)])

    def leave(self, ending: Ending, message: str) -> Step:
        """End the connection at the next turn boundary: what runs may finish, nothing new begins."""
        self._leaving = SessionError(ending, message)
        refused = [addressed(_moved(message).event(), stream_id) for stream_id in self._order]
        self._order.clear()
        self._waiting_bytes = 0
        for lane in self._lanes.values():
            lane.waiting.clear()
        step = self._depart()
        return Step([*refused, *step.events], step.effects)

    def _dispatch(self, event: events_pb2.ClientEvent, stream_id: str | None) -> Step:
        match event.WhichOneof("kind"):
            case "create":
                return self._create(event.create, stream_id)
            case "steer":
                return Step([addressed(_steering_refused(event.steer), stream_id)])
            case _:
                expected = "'response.create' or 'response.steer'"
                message = f"Unknown event type: 'type' must be {expected}."
                raise Refusal("unknown_event_type", message, "type")

    def _create(self, create: responses_pb2.CreateResponse, stream_id: str | None) -> Step:
        if self._leaving:
            raise _moved(self._leaving.message)
        lane = self._lane(stream_id)
        if lane.running or self._running >= self._limits.active:
            self._check_waiting(create)
        lane.waiting.append(create)
        self._order.append(stream_id)
        self._waiting_bytes += create.ByteSize()
        return Step(effects=self._begin_waiting())

    def _begin_waiting(self) -> list[Effect]:
        """Begin whatever may begin, first come first served among lanes that are free."""
        effects: list[Effect] = []
        for _ in range(len(self._order)):
            stream_id = self._order.popleft()
            lane = self._lanes[stream_id]
            if lane.running is not None or self._running >= self._limits.active:
                self._order.append(stream_id)
                continue
            lane.running = lane.waiting.popleft()
            self._waiting_bytes -= lane.running.ByteSize()
            self._running += 1
            effects.append(Begin(stream_id, lane.running))
        return effects

    def _ended(self, stream_id: str | None, effects: Sequence[Effect]) -> Step:
        self._lanes[stream_id].running = None
        self._running -= 1
        if self._leaving:
            step = self._depart()
            return Step(step.events, [*effects, *step.effects])
        return Step(effects=[*effects, *self._begin_waiting()])

    def _depart(self) -> Step:
        if self._leaving is None or not self.idle:
            return Step()
        return Step([_moved(self._leaving.message).event()], [End(self._leaving)])

    def _lane(self, stream_id: str | None) -> _Lane:
        if stream_id not in self._lanes:
            named = len(self._lanes) - (None in self._lanes)
            if stream_id is not None and named >= self._limits.lanes:
                raise Refusal(
                    "websocket_stream_limit_reached",
                    f"A connection can have {self._limits.lanes} named streams; open another one.",
                    "stream_id",
                )
            self._lanes[stream_id] = _Lane()
        return self._lanes[stream_id]

    def _check_waiting(self, create: responses_pb2.CreateResponse) -> None:
        limits, size = self._limits, self._waiting_bytes + create.ByteSize()
        if len(self._order) >= limits.waiting or (self._order and size > limits.waiting_bytes):
            raise RateLimited(
                f"{len(self._order)} responses are waiting on this connection already. "
                "Wait for some of them, or open another connection."
            )

    def _check_stream_id(self, stream_id: str | None) -> None:
        if stream_id is not None and not _STREAM_ID.match(stream_id):
            raise _Unaddressed(
                "invalid_stream_id",
                "'stream_id' must be 1 to 256 of the characters A-Z, a-z, 0-9, '_', '.', '-'.",
                "stream_id",
            )


class _Unaddressed(Refusal):
    """A refusal that no lane is told, because the lane's name is what is wrong."""


def addressed(event: events_pb2.ServerEvent, stream_id: str | None) -> events_pb2.ServerEvent:
    """Send an event to the lane that caused it, if that is one."""
    if stream_id is not None and _STREAM_ID.match(stream_id):
        event.stream_id = stream_id
    return event


def _moved(message: str) -> Refusal:
    """The refusal on which every known client reconnects and goes on (docs/protocol.md, "Errors")."""
    return Refusal("websocket_connection_limit_reached", message)


def _steering_refused(steer: events_pb2.SteerResponse) -> events_pb2.ServerEvent:
    told = events_pb2.Steer(previous_response_id=steer.previous_response_id, input=steer.input)
    if steer.HasField("input_text"):
        told.input_text = steer.input_text
    error = events_pb2.ErrorDetail(
        type="invalid_request_error",
        code="steering_not_supported",
        message="This model does not support steering; send the input with the next response.create.",
    )
    return events_pb2.ServerEvent(
        sequence_number=0, steer_failed=events_pb2.SteerFailed(steer=told, error=error)
    )
