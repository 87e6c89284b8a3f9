"""Steering: user messages for a response that is still being made.

Pure. What a client may steer with, what it is told, and the turn that follows. The rules are those of
docs/protocol.md, "Steering".
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import orjson

from turnwire.v1 import events_pb2, items_pb2, responses_pb2

Failure: TypeAlias = Literal[
    "response_not_found",
    "invalid_input",
    "steering_not_supported",
    "too_many_pending_steers",
    "response_already_completed",
    "response_not_active",
    "successor_creation_failed",
]
_MESSAGES: dict[Failure, str] = {
    "response_not_found": "No such response is being made on this connection.",
    "invalid_input": "'input' must be a text, or user messages of texts, images and files.",
    "steering_not_supported": "Responses of a conversation, or with 'context_management', cannot be "
    "steered. Send the input with the next response.create.",
    "too_many_pending_steers": "Too much input waits for this response already.",
    "response_already_completed": "The response is completed. Continue it with response.create.",
    "response_not_active": "The response is about to end. Continue it with response.create.",
    "successor_creation_failed": "The response that was to follow could not be created. Send the input "
    "with response.create.",
}
_PARTS = {"input_text", "input_image", "input_file"}


class Steering(NamedTuple):
    """Input that was accepted and waits for its response to end."""

    id: str
    event: events_pb2.SteerResponse

    @property
    def size(self) -> int:
        """Bytes that it keeps waiting."""
        return self.event.ByteSize()

    @property
    def items(self) -> Sequence[items_pb2.Item]:
        """The user messages."""
        if not self.event.HasField("input_text"):
            return self.event.input
        return [_as_said(self.event.input_text)]

    def accepted(self) -> events_pb2.ServerEvent:
        """Say that it is queued."""
        return events_pb2.ServerEvent(steer_accepted=events_pb2.SteerAccepted(steer=self._named()))

    def pending(self, owed: Sequence[str]) -> events_pb2.ServerEvent:
        """Say that it waits for outputs that the client owes: stubs as JSON."""
        return events_pb2.ServerEvent(
            steer_pending=events_pb2.SteerPending(
                steer=self._named(),
                reason="waiting_for_required_input",
                required_input_json=owed,
            )
        )

    def failed(self, code: Failure) -> events_pb2.ServerEvent:
        """Say that it comes to nothing, and give it back."""
        event = refused(self.event, code)
        event.steer_failed.steer.id = self.id
        return event

    def _named(self) -> events_pb2.Steer:
        return events_pb2.Steer(id=self.id, previous_response_id=self.event.previous_response_id)


def refused(event: events_pb2.SteerResponse, code: Failure) -> events_pb2.ServerEvent:
    """Refuse input, and give it back."""
    steer = events_pb2.Steer(previous_response_id=event.previous_response_id, input=event.input)
    if event.HasField("input_text"):
        steer.input_text = event.input_text
    elif not event.input:
        steer.extra_json = '{"input":[]}'  # given back as it came, not left out
    error = events_pb2.ErrorDetail(type="invalid_request_error", code=code, message=_MESSAGES[code])
    failed = events_pb2.SteerFailed(steer=steer, error=error)
    return events_pb2.ServerEvent(sequence_number=0, steer_failed=failed)


def is_valid(event: events_pb2.SteerResponse) -> bool:
    """Tell whether the input is what a client may steer with."""
    if event.HasField("input_text"):
        return bool(event.input_text)
    return bool(event.input) and all(map(_is_user_message, event.input))


def is_steerable(create: responses_pb2.CreateResponse) -> bool:
    """Tell whether the response of a request can be followed by another one on its own."""
    settings = create.settings
    bound = settings.HasField("conversation") or settings.HasField("conversation_id")
    return not bound and not settings.context_management


def successor(
    create: responses_pb2.CreateResponse, response_id: str, steerings: Sequence[Steering]
) -> responses_pb2.CreateResponse:
    """Return the request that follows a steered response: made as it was, with the steered input."""
    follows = responses_pb2.CreateResponse()
    follows.CopyFrom(create)
    for field in ("input_text", "input", "generate", "idempotency_key"):
        follows.ClearField(field)
    if follows.settings.HasField("prompt_cache_options"):
        follows.settings.prompt_cache_options.ClearField("prewarm")
    follows.settings.previous_response_id = response_id
    return prepended(follows, steerings)


def prepended(
    create: responses_pb2.CreateResponse, steerings: Sequence[Steering]
) -> responses_pb2.CreateResponse:
    """Put steered input, in the order it came, before the input of a request."""
    own = list(create.input)
    if create.HasField("input_text"):
        own = [_as_said(create.input_text)]
    create.ClearField("input_text")
    del create.input[:]
    for steering in steerings:
        create.input.extend(steering.items)
    create.input.extend(own)
    return create


def required_input(output: Sequence[items_pb2.Item]) -> Sequence[str]:
    """Return what a client owes after a response before steered input is its turn: stubs as JSON."""
    return [stub for item in output if (stub := _stub(item))]


def _stub(item: items_pb2.Item) -> str:
    match item.WhichOneof("kind"):
        case "function_call":
            call = item.function_call
            stub = {"type": "function_call_output", "call_id": call.call_id, "name": call.name}
        case "custom_tool_call":
            stub = {"type": "custom_tool_call_output", "call_id": item.custom_tool_call.call_id}
        case _:
            return ""
    return orjson.dumps(stub).decode()


def _as_said(text: str) -> items_pb2.Item:
    """Return a user message that keeps a plain text as it came."""
    return items_pb2.Item(message=items_pb2.Message(role="user", content_text=text))


def _is_user_message(item: items_pb2.Item) -> bool:
    message = item.message
    kinds = {part.WhichOneof("kind") for part in message.content}
    says = bool(message.content_text) or bool(kinds)
    return item.HasField("message") and message.role == "user" and says and kinds <= _PARTS
