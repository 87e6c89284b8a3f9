"""The rules of one connection: lanes, their order and bounds, steering, what failures and departures do.

Pure: it never waits, reads a clock or draws a random number. Every input returns one `Step`: events
to deliver, then effects to perform, in that order. The rules are those of docs/protocol.md, "Lanes and
state" and "Steering".
"""

import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from service import steering
from service.errors import Ending, RateLimited, Refusal, SessionError, Unauthenticated
from service.limits import MIB
from service.steering import Steering
from turnwire.v1 import events_pb2, responses_pb2

_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}\Z")
_REMEMBERED = 256
"""Finished responses that are told from those that never were."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionLimits:
    """What one connection may have under way."""

    active: int = 16
    """Turns that run at once; further ones wait."""
    lanes: int = 32
    """Named lanes in the connection's life."""
    waiting: int = 64
    """Turns that wait; further ones are refused, except for the first of a lane."""
    steerings: int = 16
    """Inputs that wait for one response; and no more than `waiting` for all."""
    waiting_bytes: int = 64 * MIB
    """What all that waits may weigh together, steering included, unless it is only one."""
    background: bool = False
    """Whether responses may run in the background: only where no client waits for them."""


class Begin(NamedTuple):
    """Begin this turn."""

    stream_id: str | None
    create: responses_pb2.CreateResponse
    resume: events_pb2.ResumeResponse | None = None
    """What is to be told in the place of a new response."""


class Tell(NamedTuple):
    """Deliver this event under the next number of the lane's response."""

    stream_id: str | None
    event: events_pb2.ServerEvent


class Steer(NamedTuple):
    """End the lane's turn at its next safe boundary: input waits to follow it."""

    stream_id: str | None


class Interrupt(NamedTuple):
    """End the lane's turn now."""

    stream_id: str | None


class Forget(NamedTuple):
    """Let go of this response: a turn that continued it failed in its own lane."""

    response_id: str


class End(NamedTuple):
    """End the connection."""

    error: SessionError


Effect: TypeAlias = Begin | Tell | Steer | Interrupt | Forget | End


class Step(NamedTuple):
    """What an input leads to."""

    events: Sequence[events_pb2.ServerEvent] = ()
    effects: Sequence[Effect] = ()


@dataclass(slots=True)
class _Turn:
    """A turn that waits or runs."""

    create: responses_pb2.CreateResponse
    steered: Sequence[Steering] = ()
    """Steered input in `create`: given back if the response never begins."""
    automatic: bool = False
    """Whether it follows a steered response by itself: then no client waits for it by name."""
    resume: events_pb2.ResumeResponse | None = None
    """The response that is to be told; nothing is asked for then."""
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = self.create.ByteSize() + (self.resume.ByteSize() if self.resume else 0)

    @property
    def parent(self) -> str:
        """The response it continues."""
        return self.create.settings.previous_response_id


@dataclass(slots=True)
class _Lane:
    waiting: deque[_Turn] = field(default_factory=deque)
    running: _Turn | None = None
    response_id: str = ""
    """The response that is being made, once it exists."""
    steerings: list[Steering] = field(default_factory=list)
    """Input for after that response."""
    ending: bool = False
    """Whether that response is about to end: it was interrupted, or its model has finished."""
    interrupted: bool = False
    latest: str = ""
    """The lane's last finished response: what its next turn is expected to continue."""

    def needs(self, response_id: str) -> bool:
        """Tell whether a turn of the lane continues a response, or is expected to."""
        turns = [*self.waiting, *([self.running] if self.running else [])]
        return self.latest == response_id or any(turn.parent == response_id for turn in turns)


class Session:
    """One connection's lanes. A lane's turns follow each other; lanes run side by side, in turns."""

    __slots__ = (
        "_finished",
        "_lanes",
        "_leaving",
        "_limits",
        "_new_id",
        "_owed",
        "_ready",
        "_running",
        "_waiting",
        "_waiting_bytes",
    )

    def __init__(self, limits: SessionLimits, new_id: Callable[[str], str]) -> None:
        self._limits = limits
        self._new_id = new_id
        self._lanes: dict[str | None, _Lane] = {}
        self._ready: deque[str | None] = deque()
        """Lanes that could begin a turn; one that has begun one goes to the end, however much it has."""
        self._running = 0
        self._waiting = 0
        self._waiting_bytes = 0
        self._owed: dict[str, list[Steering]] = {}
        """Input for after a response whose calls the client is to answer first, by that response."""
        self._finished: dict[str, str | None] = {}
        """The lanes of the last finished responses, oldest first."""
        self._leaving: SessionError | None = None

    @property
    def idle(self) -> bool:
        """Whether no turn runs or waits."""
        return self._running == 0 and self._waiting == 0

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

    def began(self, stream_id: str | None, response_id: str) -> None:
        """A turn's response exists: it can be steered and interrupted."""
        self._lanes[stream_id].response_id = response_id

    def settling(self, stream_id: str | None) -> None:
        """A turn's model has finished: nothing that comes now changes its response."""
        self._lanes[stream_id].ending = True

    def finished(self, stream_id: str | None, response_id: str, owed: Sequence[str] = ()) -> Step:
        """A turn ended and its response can be continued.

        `owed` are the outputs that the client is to send first, as stubs in JSON.
        """
        lane = self._lanes[stream_id]
        lane.latest = response_id
        self._remember(response_id, stream_id)
        steerings, lane.steerings = lane.steerings, []
        if lane.interrupted:
            return self._ended(stream_id, self._given_back(stream_id, steerings, _TOO_LATE))
        if steerings and owed and not self._leaving:
            self._owed[response_id] = steerings
            return self._ended(stream_id, [Tell(stream_id, s.pending(owed)) for s in steerings])
        if steerings and lane.running and not self._leaving:
            self._follow(
                lane, steering.successor(lane.running.create, response_id, steerings), steerings
            )
            return self._ended(stream_id, ())
        return self._ended(stream_id, self._given_back(stream_id, steerings, _LOST))

    def refused(self, stream_id: str | None, refusal: Refusal) -> Step:
        """A turn was refused before its response existed. Its parent is let go of, as in `failed`."""
        running = self._lanes[stream_id].running
        told = [] if running is None or running.automatic else [refusal.event()]
        step = self.failed(stream_id)
        return Step([*(addressed(event, stream_id) for event in told), *step.events], step.effects)

    def failed(self, stream_id: str | None) -> Step:
        """A turn ended and its response cannot be continued.

        The parent it referred to is forgotten, unless another lane stands on it: a client that
        retries sends the whole context. A fork that failed must not harm the lane it left.
        """
        lane = self._lanes[stream_id]
        parent = lane.running.parent if lane.running else ""
        others = (other for name, other in self._lanes.items() if name != stream_id)
        forget = parent and not any(other.needs(parent) for other in others)
        step = self.cancelled(stream_id)
        return Step(step.events, [*([Forget(parent)] if forget else []), *step.effects])

    def cancelled(self, stream_id: str | None) -> Step:
        """A turn was ended on purpose, and its response cannot be continued; its parent still can."""
        lane = self._lanes[stream_id]
        lost, lane.steerings = self._given_back(stream_id, lane.steerings, _LOST), []
        if lane.running and not lane.response_id:
            told = [Tell(stream_id, s.failed(_LOST)) for s in lane.running.steered]
            lost = [*told, *lost]
        return self._ended(stream_id, lost)

    def leave(self, ending: Ending, message: str) -> Step:
        """End the connection at the next turn boundary: what runs may finish, nothing new begins."""
        self._leaving = SessionError(ending, message)
        refused = [
            event for name in self._lanes for event in self._refuse_waiting(name, self._leaving)
        ]
        for response_id, steerings in self._owed.items():
            lane = self._finished.get(response_id)
            refused += [addressed(steered.failed(_LOST), lane) for steered in steerings]
        self._owed.clear()
        self._ready.clear()
        step = self._depart()
        return Step([*refused, *step.events], step.effects)

    def _dispatch(self, event: events_pb2.ClientEvent, stream_id: str | None) -> Step:
        match event.WhichOneof("kind"):
            case "create":
                return self._create(event.create, stream_id)
            case "steer":
                return self._steer(event.steer)
            case "interrupt":
                return self._interrupt(event.interrupt)
            case "resume":
                return self._resume(event.resume, stream_id)
            case _:
                expected = "response.create, response.steer, response.interrupt or response.resume"
                message = f"Unknown event type: 'type' must be {expected}."
                raise Refusal("unknown_event_type", message, "type")

    def _create(self, create: responses_pb2.CreateResponse, stream_id: str | None) -> Step:
        if self._leaving:
            raise farewell(self._leaving)
        if create.settings.background and not self._limits.background:
            raise Refusal(
                "unsupported_parameter",
                "'background' is not supported on connections; use POST /v1/responses.",
                "background",
            )
        lane = self._lane(stream_id)
        if lane.running or self._running >= self._limits.active:
            self._check_waiting(lane, create.ByteSize())
        steerings = self._owed.pop(create.settings.previous_response_id, [])
        self._release(steerings)
        if steerings:
            create = steering.prepended(create, steerings)
        return self._enqueue(stream_id, _Turn(create, steerings))

    def _resume(self, event: events_pb2.ResumeResponse, stream_id: str | None) -> Step:
        if self._leaving:
            raise farewell(self._leaving)
        lane, nothing = self._lane(stream_id), responses_pb2.CreateResponse()
        if lane.running or self._running >= self._limits.active:
            self._check_waiting(lane, event.ByteSize())
        return self._enqueue(stream_id, _Turn(nothing, resume=event))

    def _enqueue(self, stream_id: str | None, turn: _Turn) -> Step:
        lane = self._lanes[stream_id]
        self._put(lane, turn)
        if lane.running is None and stream_id not in self._ready:
            self._ready.append(stream_id)
        return Step(effects=self._begin_ready())

    def _steer(self, event: events_pb2.SteerResponse) -> Step:
        stream_id, lane = self._making(event.previous_response_id)
        if lane is None:
            return self._too_late_to_steer(event)
        if failure := self._unsteerable(event, lane):
            return Step([addressed(steering.refused(event, failure), stream_id)])
        steered = Steering(self._new_id("steer"), event)
        lane.steerings.append(steered)
        self._waiting_bytes += steered.size
        return Step(effects=[Tell(stream_id, steered.accepted()), Steer(stream_id)])

    def _too_late_to_steer(self, event: events_pb2.SteerResponse) -> Step:
        """Say of a response that is not being made any more what became of it."""
        response_id = event.previous_response_id
        for stream_id, lane in self._lanes.items():
            if lane.response_id and lane.response_id == response_id:
                refused = steering.refused(event, "response_not_active")
                return Step([addressed(refused, stream_id)])
        if response_id not in self._finished:
            return Step([steering.refused(event, "response_not_found")])
        refused = steering.refused(event, "response_already_completed")
        return Step([addressed(refused, self._finished[response_id])])

    def _unsteerable(self, event: events_pb2.SteerResponse, lane: _Lane) -> steering.Failure | None:
        """Return why a response that is being made cannot be steered, if it cannot."""
        if not steering.is_valid(event):
            return "invalid_input"
        if lane.running and not steering.is_steerable(lane.running.create):
            return "steering_not_supported"
        if self._leaving:
            return "response_not_active"
        many = self._steerings() >= self._limits.waiting
        large = self._waiting_bytes + event.ByteSize() > self._limits.waiting_bytes
        if many or large or len(lane.steerings) >= self._limits.steerings:
            return "too_many_pending_steers"
        return None

    def _steerings(self) -> int:
        """How many inputs wait for responses to end."""
        running = sum(len(lane.steerings) for lane in self._lanes.values())
        return running + sum(map(len, self._owed.values()))

    def _interrupt(self, event: events_pb2.InterruptResponse) -> Step:
        if event.mode and event.mode != "discard_partial_items":
            message = "'mode' must be 'discard_partial_items'."
            raise Refusal("invalid_value", message, "mode")
        accepted = events_pb2.ServerEvent(
            sequence_number=0,
            interrupt_accepted=events_pb2.InterruptAccepted(response_id=event.response_id),
        )
        stream_id, lane = self._making(event.response_id)
        if lane:
            lane.ending = lane.interrupted = True
            return Step(effects=[Tell(stream_id, accepted), Interrupt(stream_id)])
        for stream_id, other in self._lanes.items():
            if other.response_id and other.response_id == event.response_id:
                return Step([addressed(accepted, stream_id)])
        if event.response_id in self._finished:  # it ended while the interruption was under way
            return Step([addressed(accepted, self._finished[event.response_id])])
        raise Refusal(
            "response_not_found",
            "No such response is being made on this connection.",
            "response_id",
        )

    def _making(self, response_id: str) -> tuple[str | None, _Lane | None]:
        """Return the lane in which a response is being made that is not about to end."""
        for stream_id, lane in self._lanes.items():
            if response_id and lane.response_id == response_id and not lane.ending:
                return stream_id, lane
        return None, None

    def _put(self, lane: _Lane, turn: _Turn) -> None:
        lane.waiting.append(turn)
        self._waiting += 1
        self._waiting_bytes += turn.size

    def _follow(
        self, lane: _Lane, create: responses_pb2.CreateResponse, steerings: Sequence[Steering]
    ) -> None:
        """Let a turn follow by itself, before what else waits in its lane."""
        self._release(steerings)
        self._put(lane, _Turn(create, steerings, automatic=True))
        lane.waiting.rotate(1)

    def _given_back(
        self, stream_id: str | None, steerings: Sequence[Steering], code: steering.Failure
    ) -> list[Effect]:
        """Give back input that will not be said."""
        self._release(steerings)
        return [Tell(stream_id, steered.failed(code)) for steered in steerings]

    def _release(self, steerings: Sequence[Steering]) -> None:
        self._waiting_bytes -= sum(steered.size for steered in steerings)

    def _remember(self, response_id: str, stream_id: str | None) -> None:
        self._finished[response_id] = stream_id
        if len(self._finished) > _REMEMBERED:
            del self._finished[next(iter(self._finished))]

    def _begin_ready(self) -> list[Effect]:
        """Begin whatever may begin, lane by lane."""
        effects: list[Effect] = []
        while self._ready and self._running < self._limits.active:
            stream_id = self._ready.popleft()
            lane = self._lanes[stream_id]
            lane.running = lane.waiting.popleft()
            self._waiting -= 1
            self._waiting_bytes -= lane.running.size
            self._running += 1
            effects.append(Begin(stream_id, lane.running.create, lane.running.resume))
        return effects

    def _ended(self, stream_id: str | None, effects: Sequence[Effect]) -> Step:
        lane = self._lanes[stream_id]
        lane.running, lane.response_id = None, ""
        lane.ending = lane.interrupted = False
        self._running -= 1
        if self._leaving:
            told = [addressed(e.event, e.stream_id) for e in effects if isinstance(e, Tell)]
            rest = [effect for effect in effects if not isinstance(effect, Tell)]
            step = self._depart()  # the last that is told
            return Step([*told, *step.events], [*rest, *step.effects])
        if lane.waiting:
            self._ready.append(stream_id)
        return Step(effects=[*effects, *self._begin_ready()])

    def _refuse_waiting(
        self, stream_id: str | None, leaving: SessionError
    ) -> Iterator[events_pb2.ServerEvent]:
        """Refuse the turns of a lane that have not begun."""
        waiting = self._lanes[stream_id].waiting
        while waiting:
            turn = waiting.popleft()
            self._waiting -= 1
            self._waiting_bytes -= turn.size
            for steered in turn.steered:
                yield addressed(steered.failed(_LOST), stream_id)
            if not turn.automatic:
                yield addressed(farewell(leaving).event(), stream_id)

    def _depart(self) -> Step:
        if self._leaving is None or self._running:
            return Step()
        return Step([farewell(self._leaving).event()], [End(self._leaving)])

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

    def _check_waiting(self, lane: _Lane, size: int) -> None:
        """Refuse what would make too much wait. No lane's burst keeps another from waiting too."""
        many = self._waiting >= self._limits.waiting and bool(lane.waiting)
        large = self._waiting_bytes + size > self._limits.waiting_bytes
        if many or (self._waiting and large):
            raise RateLimited(
                f"{self._waiting} responses are waiting on this connection already. "
                "Wait for some of them, or open another connection."
            )

    def _check_stream_id(self, stream_id: str | None) -> None:
        if stream_id is not None and not _STREAM_ID.match(stream_id):
            raise _Unaddressed(
                "invalid_stream_id",
                "'stream_id' must be 1 to 256 of the characters A-Z, a-z, 0-9, '_', '.', '-'.",
                "stream_id",
            )


_LOST: steering.Failure = "successor_creation_failed"
_TOO_LATE: steering.Failure = "response_not_active"


class _Unaddressed(Refusal):
    """A refusal that no lane is told, because the lane's name is what is wrong."""


def addressed(event: events_pb2.ServerEvent, stream_id: str | None) -> events_pb2.ServerEvent:
    """Send an event to the lane that caused it, if that is one."""
    if stream_id is not None and _STREAM_ID.match(stream_id):
        event.stream_id = stream_id
    return event


def farewell(error: SessionError) -> Refusal:
    """Return the refusal that says an ending (docs/protocol.md, "Errors").

    On the usual one every known client reconnects and goes on; with the same credential nobody could.
    """
    if error.ending is Ending.REVOKED:
        return Unauthenticated(error.message)
    return Refusal("websocket_connection_limit_reached", error.message)
