"""An agent: it asks, runs the tools the model calls, and goes on until the model has answered.

Each turn continues the one before and carries only what is new. What happens is told to an
observer as it happens.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from compare.clients import Client
from compare.tools import Tool
from turnwire.v1 import events_pb2, items_pb2, responses_pb2

_MOST_TURNS = 8  # of one step: small models like to call the same tool for ever
_TURN_SECONDS = 300.0


class AgentFailed(Exception):
    """The task cannot be finished. Says why in the server's words."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to ask."""

    prompt: str
    tool: str | None = None
    """The tool the model must call before it answers in words. None leaves it the choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """What one turn took and cost."""

    first_delta: float
    """Seconds until the model began to say or call something."""
    seconds: float
    bytes_sent: int
    replay_bytes: int
    """What it would have taken to send the whole conversation instead."""
    input_tokens: int
    cached_tokens: int
    output_tokens: int


class Asked(NamedTuple):
    """The user asks."""

    prompt: str


class Said(NamedTuple):
    """The model says more."""

    text: str


class Called(NamedTuple):
    """The model calls a tool."""

    name: str
    arguments: str


class Returned(NamedTuple):
    """The tool returned."""

    output: str


class TurnEnded(NamedTuple):
    """The turn is over."""

    turn: Turn


Observation: TypeAlias = Asked | Said | Called | Returned | TurnEnded
Observer: TypeAlias = Callable[[Observation], None]


class Agent:
    """One conversation over one connection."""

    def __init__(
        self,
        client: Client,
        settings: responses_pb2.Settings,
        tools: Sequence[Tool],
        observe: Observer,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.turns: list[Turn] = []
        self._client = client
        self._settings = responses_pb2.Settings()
        self._settings.CopyFrom(settings)
        self._settings.tools.extend(tool.definition for tool in tools)
        self._tools = {tool.name: tool for tool in tools}
        self._observe = observe
        self._clock = clock
        self._said: list[items_pb2.Item] = []  # kept only to tell what a full replay would weigh

    async def run(self, steps: Iterable[Step]) -> None:
        """Take steps one after the other. Raises `AgentFailed` and `Disconnected`."""
        for step in steps:
            await self._take(step)

    async def _take(self, step: Step) -> None:
        self._observe(Asked(step.prompt))
        message = items_pb2.Message(role="user", content_text=step.prompt)
        calls = await self._turn([items_pb2.Item(message=message)], _first_choice(step))
        for _ in range(_MOST_TURNS):
            if not calls:
                return
            outputs = [await self._answer(call) for call in calls]
            calls = await self._turn(outputs, _next_choice(step))
        raise AgentFailed("The model does not stop calling tools.")

    async def _answer(self, call: items_pb2.FunctionCall) -> items_pb2.Item:
        """Run the tool that was called."""
        tool = self._tools.get(call.name)
        unknown = f"error: there is no tool '{call.name}'"
        text = await asyncio.to_thread(tool.run, call.arguments) if tool else unknown
        self._observe(Returned(text))
        output = items_pb2.FunctionCallOutput(call_id=call.call_id, output_text=text)
        return items_pb2.Item(function_call_output=output)

    async def _turn(
        self, new: Sequence[items_pb2.Item], choice: responses_pb2.Settings
    ) -> list[items_pb2.FunctionCall]:
        """Send what is new, follow the turn to its end and return the calls to answer."""
        create = responses_pb2.CreateResponse(settings=self._settings, input=new)
        create.settings.MergeFrom(choice)
        exchange = await self._exchange(create)
        response = exchange.response
        self._said += new
        self.turns.append(exchange.turn(self._client.size_of(self._replay(create))))
        self._said += response.output
        self._settings.previous_response_id = response.id
        calls = [item.function_call for item in response.output if item.HasField("function_call")]
        for call in calls:
            self._observe(Called(call.name, call.arguments))
        self._observe(TurnEnded(self.turns[-1]))
        return calls

    async def _exchange(self, create: responses_pb2.CreateResponse) -> "_Exchange":
        """Send a request and follow it to its end, within a deadline."""
        sent, began = self._client.bytes_sent, self._clock()
        try:
            async with asyncio.timeout(_TURN_SECONDS):
                await self._client.send(events_pb2.ClientEvent(create=create))
                response, first_delta = await self._follow()
        except TimeoutError:
            raise AgentFailed(f"A turn took more than {_TURN_SECONDS:.0f} s.") from None
        sent = self._client.bytes_sent - sent
        return _Exchange(response, sent, began, first_delta, self._clock())

    async def _follow(self) -> tuple[responses_pb2.Response, float]:
        """Return the response at its end, and when its first delta came."""
        first_delta: float | None = None
        while True:
            event = await self._client.receive()
            kind = event.WhichOneof("kind") or ""
            if kind.endswith("_delta"):
                first_delta = self._clock() if first_delta is None else first_delta
                self._tell(event)
            elif kind in {"completed", "incomplete"}:
                response = getattr(event, kind).response
                return response, self._clock() if first_delta is None else first_delta
            _raise_failure(event)

    def _tell(self, event: events_pb2.ServerEvent) -> None:
        """Tell what the model says; what it thinks and how it calls are not for the screen."""
        if event.HasField("output_text_delta"):
            self._observe(Said(event.output_text_delta.delta))
        elif event.HasField("refusal_delta"):
            self._observe(Said(event.refusal_delta.delta))

    def _replay(self, create: responses_pb2.CreateResponse) -> events_pb2.ClientEvent:
        """Return the same request as a server without memory would need it."""
        replay = responses_pb2.CreateResponse(settings=create.settings, input=self._said)
        replay.settings.ClearField("previous_response_id")
        return events_pb2.ClientEvent(create=replay)


class _Exchange(NamedTuple):
    """A request and its response."""

    response: responses_pb2.Response
    bytes_sent: int
    began: float
    first_delta: float
    ended: float

    def turn(self, replay_bytes: int) -> Turn:
        """Return its figures."""
        usage = self.response.usage
        return Turn(
            first_delta=self.first_delta - self.began,
            seconds=self.ended - self.began,
            bytes_sent=self.bytes_sent,
            replay_bytes=replay_bytes,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.input_tokens_details.cached_tokens,
            output_tokens=usage.output_tokens,
        )


def _first_choice(step: Step) -> responses_pb2.Settings:
    if step.tool is None:
        return responses_pb2.Settings(tool_choice_mode="auto")
    function = responses_pb2.NamedTool(name=step.tool)
    return responses_pb2.Settings(tool_choice=responses_pb2.ToolChoice(function=function))


def _next_choice(step: Step) -> responses_pb2.Settings:
    """Let who was told to call a tool now answer in words."""
    return responses_pb2.Settings(tool_choice_mode="auto" if step.tool is None else "none")


def _raise_failure(event: events_pb2.ServerEvent) -> None:
    if event.HasField("failed"):
        error = event.failed.response.error
        raise AgentFailed(f"The turn failed: {error.message} ({error.code})")
    if event.HasField("error"):
        refused = event.error.error
        raise AgentFailed(f"The server refused: {refused.message} ({refused.code})")
