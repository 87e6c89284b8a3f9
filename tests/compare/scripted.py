"""A server without a model: it answers every request from what the request says."""

from collections import deque

from compare.clients import Disconnected
from turnwire.v1 import events_pb2, items_pb2, responses_pb2


def answer(create: responses_pb2.CreateResponse, number: int) -> list[events_pb2.ServerEvent]:
    """Call the function that is demanded, else say two words."""
    response = responses_pb2.Response(id=f"resp_{number}")
    response.usage.input_tokens = 10 * (number + 1)
    response.usage.input_tokens_details.cached_tokens = 10 * number
    demanded = create.settings.tool_choice.function.name
    response.output.append(called(demanded) if demanded else said("two words"))
    deltas = [] if demanded else [text_delta("two"), text_delta(" words")]
    if demanded:
        deltas = [
            events_pb2.ServerEvent(
                function_call_arguments_delta=events_pb2.ItemDelta(delta="{}"),
            )
        ]
    completed = events_pb2.ResponseEvent(response=response)
    return [*deltas, events_pb2.ServerEvent(completed=completed)]


def called(name: str, arguments: str = '{"word": "hello"}') -> items_pb2.Item:
    call = items_pb2.FunctionCall(call_id=f"call_{name}", name=name, arguments=arguments)
    return items_pb2.Item(function_call=call)


def said(text: str) -> items_pb2.Item:
    part = items_pb2.ContentPart(output_text=items_pb2.OutputText(text=text))
    return items_pb2.Item(message=items_pb2.Message(role="assistant", content=[part]))


def text_delta(text: str) -> events_pb2.ServerEvent:
    return events_pb2.ServerEvent(output_text_delta=events_pb2.OutputTextDelta(delta=text))


class ScriptedClient:
    """A connection to `answer`, in memory. What it is given to say goes before."""

    def __init__(self, *instead: list[events_pb2.ServerEvent]) -> None:
        self.bytes_sent = self.bytes_received = 0
        self.requests: list[responses_pb2.CreateResponse] = []
        self._instead = deque(instead)
        self._events: deque[events_pb2.ServerEvent] = deque()

    async def send(self, event: events_pb2.ClientEvent) -> None:
        self.bytes_sent += self.size_of(event)
        answered = answer(event.create, len(self.requests))
        self.requests.append(event.create)
        self._events.extend(self._instead.popleft() if self._instead else answered)

    async def receive(self) -> events_pb2.ServerEvent:
        if not self._events:
            raise Disconnected("There is nothing more to say.")
        return self._events.popleft()

    def size_of(self, event: events_pb2.ClientEvent) -> int:
        return event.ByteSize()

    async def close(self) -> None:
        self._events.clear()
