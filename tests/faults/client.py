"""A client that does whatever a program says, and notes what it may expect."""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from service.engine import Engine
from service.errors import NotFound
from tests.conformance.clients import WebSocket
from tests.faults.acts import TURNS, Act
from tests.faults.ledger import Ledger
from tests.faults.lines import TENANT, Lines
from tests.faults.model import NOT_FOUND, OK, Asked, Response, expected_of
from tests.faults.told import bare
from turnwire import json_codec
from turnwire.delta import to_message
from turnwire.v1 import conversation_service_pb2 as rpc
from turnwire.v1 import events_pb2

_MOST_UNANSWERED = 60
"""Creates of a connection that may be open: of more, some would be refused for their number."""
_FAULTS: Sequence[tuple[str, dict[str, Any]]] = (
    ("invalid_value", {"temperature": 9}),
    ("invalid_value", {"tool_choice": "sometimes"}),
    ("model_not_found", {"model": "nobody"}),
    ("missing_required_parameter", {"model": None}),
    ("unsupported_parameter", {"background": True}),
)


class Client:
    """One client, on one connection after the other."""

    def __init__(self, engine: Engine, lines: Lines, ledger: Ledger) -> None:
        self._engine = engine
        self._lines = lines
        self._ledger = ledger
        self._marks = (f"m{number}" for number in itertools.count())
        self._asides: set[asyncio.Task[None]] = set()
        self._conversation = ""
        self._foreign = ""
        self._does: dict[str, Callable[[Act], Awaitable[None]]] = {
            "steer": self._steer,
            "interrupt": self._interrupt,
            "cancel": self._cancel,
            "delete": self._delete,
            "follow": self._follow,
            "malformed": self._malformed,
            "stray": self._stray,
            "pause": self._pause,
            "read": self._read,
            "reconnect": self._reconnect,
            "rest": self._rest,
        }

    async def begin(self, foreign: str) -> None:
        """Connect, and make a conversation. `foreign` is a response of another tenant."""
        self._foreign = foreign
        conversation = await self._engine.conversations.create(
            TENANT, rpc.CreateConversationRequest()
        )
        self._conversation = conversation.id
        await self._lines.open()

    async def do(self, act: Act) -> None:
        """Do one act."""
        self._lines.now.check()
        if act.verb in TURNS:
            await self._turn(act)
        else:
            await self._does[act.verb](act)
        for _ in range(act.ticks):
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Read until everything is answered, and nobody does anything."""
        await self._rest()
        while self._asides:
            await asyncio.gather(*self._asides)
        await self._rest()

    async def _turn(self, act: Act) -> None:
        line = self._lines.now
        if self._ledger.unanswered(line.number) >= _MOST_UNANSWERED:
            most = _MOST_UNANSWERED // 2
            await line.until(lambda: self._ledger.unanswered(line.number) <= most)
        mark, lane = next(self._marks), f"lane-{act.lane}" if act.lane else None
        parent = self._parent(act, lane)
        asked = Asked(
            mark=mark,
            lane=lane,
            line=line.number,
            parent=parent,
            expected=expected_of(parent, line.number, act.store) if parent else frozenset({OK}),
            script=act.script,
            stored=(parent is None or parent.stored) if act.store is None else act.store,
        )
        members, items = self._special(act, asked)
        said = [_user(mark), *items]
        if act.script == "warm":
            members["generate"] = False
        else:
            said.append(_user(act.script))
        if act.store is not None:
            members["store"] = act.store
        if parent:
            members["previous_response_id"] = parent.id
        if lane:
            members["stream_id"] = lane
        self._ledger.send(asked)
        create = {"type": "response.create", "model": "simulator", "metadata": {"mark": mark}}
        await self._send({**create, "input": said, **members})

    def _parent(self, act: Act, lane: str | None) -> Response | None:
        match act.verb:
            case "orphan" if act.pick % 2:
                return self._one(act, lambda response: bool(response.answered))
            case "chain" | "refer" | "orphan":
                return self._ledger.latest(self._lines.now.number, lane)
            case "fork":
                return self._one(act, lambda response: response.told.over)
            case "answer":
                return self._one(act, lambda response: response.told.over and bool(response.calls))
        return None

    def _special(self, act: Act, asked: Asked) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the members and the items that make a create what its verb says."""
        match act.verb:
            case "answer" if asked.parent:
                return {}, self._answers(act, asked)
            case "orphan":
                doubts = {NOT_FOUND} if asked.parent else set()
                asked.expected = frozenset({"invalid_value", *doubts})
                again = asked.parent.answered - asked.parent.calls if asked.parent else ()
                return {}, [_output(min(again, default="call_nobody"))]
            case "refer":
                return {}, self._reference(act, asked)
            case "misrefer":
                asked.expected = frozenset({"item_not_found"})
                return {}, [{"type": "item_reference", "id": f"msg_{'0' * 32}o0"}]
            case "converse":
                asked.conversation = True
                refused = act.store is False
                codes = {"invalid_value"} if refused else {OK, "conversation_locked"}
                asked.expected = frozenset(codes)
                return {"conversation": self._conversation}, []
            case "garbage" | "foreign":
                asked.expected = frozenset({NOT_FOUND})
                garbage = ("resp_", "nonsense", f"resp_{'0' * 32}", "resp_" + "x" * 500)
                name = self._foreign if act.verb == "foreign" else garbage[act.pick % 4]
                return {"previous_response_id": name}, []
            case "faulty":
                code, members = _FAULTS[act.pick % len(_FAULTS)]
                asked.expected = frozenset({code})
                return dict(members), []
        return {}, []

    def _answers(self, act: Act, asked: Asked) -> list[dict[str, Any]]:
        """Return the outputs of one call, or of all, that the parent left open."""
        assert asked.parent
        calls = sorted(asked.parent.calls)
        asked.answers = frozenset(calls if act.pick % 2 else calls[:1])
        return [_output(call_id) for call_id in sorted(asked.answers)]

    def _reference(self, act: Act, asked: Asked) -> list[dict[str, Any]]:
        """Return a reference to a message of a stored response, if there is any."""
        asked.referred = self._one(
            act, lambda r: r.stored and r.continuable and not r.deleting and bool(_messages(r))
        )
        if asked.referred is None:
            return []
        return [{"type": "item_reference", "id": _messages(asked.referred)[0]}]

    async def _steer(self, act: Act) -> None:
        if response := self._running(act):
            mark = next(self._marks)
            self._ledger.steers[response.id].append(mark)
            said = [_user(mark), _user("#recite")]
            await self._send(
                {"type": "response.steer", "previous_response_id": response.id, "input": said}
            )

    async def _interrupt(self, act: Act) -> None:
        if response := self._running(act):
            response.disturbed = True
            self._ledger.interrupts[self._lines.now.number] += 1
            await self._send({"type": "response.interrupt", "response_id": response.id})

    async def _cancel(self, act: Act) -> None:
        if response := self._running(act) or self._one(act, lambda _: True):
            response.disturbed = True
            self._aside(self._cancelled(response))

    async def _cancelled(self, response: Response) -> None:
        try:
            ended = await self._engine.responses.cancel(TENANT, response.id)
        except NotFound:
            assert self._may_be_absent(response), "a stored response is not there"
            return
        assert response.stored
        assert ended.status in {"completed", "incomplete", "failed", "cancelled"}
        if response.told.over:
            assert ended == response.told.response

    async def _delete(self, act: Act) -> None:
        if response := self._one(act, lambda _: True):
            response.deleting = True
            response.disturbed = True
            self._aside(self._deleted(response))

    async def _deleted(self, response: Response) -> None:
        try:
            await self._engine.responses.delete(TENANT, response.id)
        except NotFound:
            assert self._may_be_absent(response), "a stored response is not there"
            return
        assert response.stored
        response.deleted = True

    async def _follow(self, act: Act) -> None:
        if response := self._running(act) or self._one(act, lambda _: True):
            self._aside(self._followed(response))

    async def _followed(self, response: Response) -> None:
        try:
            batches = await self._engine.responses.follow(TENANT, response.id, None)
        except NotFound:
            assert self._may_be_absent(response), "a stored response is not there"
            return
        told = bare([to_message(event) async for batch in batches for event in batch])
        line = self._lines.now
        if response.line == line.number:
            await line.until(lambda: response.told.over or line.left)
        heard = bare(response.told.events)
        if not response.told.over:  # whoever left before the end heard the beginning of the same
            told, heard = told[: len(heard)], heard[: len(told)]
        assert told == heard, f"who follows hears {_kinds(told)}, not {_kinds(heard)}"

    def _may_be_absent(self, response: Response) -> bool:
        """Tell whether a response may not be in the store: unstored, deleted, or never ended."""
        left = response.line != self._lines.now.number
        return not response.stored or response.deleting or (left and not response.told.over)

    async def _malformed(self, act: Act) -> None:
        line = self._lines.now
        if isinstance(line.client, WebSocket) and act.pick % 2:
            self._ledger.oddities[line.number]["invalid_json"] += 1
            await line.client._connection.send("{")
            return
        self._ledger.oddities[line.number]["unknown_event_type"] += 1
        await line.client.send(events_pb2.ClientEvent(other_json='{"type":"response.unheard"}'))

    async def _stray(self, act: Act) -> None:
        del act
        self._ledger.oddities[self._lines.now.number]["invalid_stream_id"] += 1
        await self._send(
            {"type": "response.create", "model": "simulator", "stream_id": "no lane", "input": "x"}
        )

    async def _pause(self, act: Act) -> None:
        del act
        self._lines.now.reads.clear()

    async def _read(self, act: Act) -> None:
        del act
        self._lines.now.reads.set()

    async def _reconnect(self, act: Act) -> None:
        del act
        await self._lines.vanish()
        await self._lines.open()

    async def _rest(self, act: Act | None = None) -> None:
        del act
        line = self._lines.now
        await line.until(lambda: not self._ledger.unanswered(line.number))

    async def _send(self, members: dict[str, Any]) -> None:
        frame = json.dumps(members)
        await self._lines.now.client.send(json_codec.decode(events_pb2.ClientEvent, frame))

    def _aside(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._asides.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._asides.discard(task)

    def _running(self, act: Act) -> Response | None:
        number = self._lines.now.number
        return self._one(act, lambda r: r.line == number and not r.told.over)

    def _one(self, act: Act, fits: Callable[[Response], bool]) -> Response | None:
        fitting = [response for response in self._ledger.responses.values() if fits(response)]
        return fitting[act.pick % len(fitting)] if fitting else None


def _kinds(events: Sequence[events_pb2.ServerEvent]) -> list[str | None]:
    return [event.WhichOneof("kind") for event in events]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _output(call_id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": "42"}


def _messages(response: Response) -> list[str]:
    return [i.message.id for i in response.told.response.output if i.HasField("message")]
