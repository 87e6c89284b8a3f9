"""What a `response.create` comes down to, once its parent is known.

Pure rules: defaults, inheritance and the refusals that need no model server. They are listed in
docs/protocol.md.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson

from service.conversation import DurableNode, Node
from service.errors import Refusal
from turnwire.v1 import items_pb2, responses_pb2

_RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "top_logprobs": (0, 20),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "max_output_tokens": (1, math.inf),
    "max_tool_calls": (1, math.inf),
}
_WORDS = {"tool_choice_mode": ("none", "auto", "required"), "truncation": ("disabled", "auto")}
_CALLS = {"function_call", "custom_tool_call"}
_OUTPUTS = {"function_call_output", "custom_tool_call_output"}
_CALLS_AND_OUTPUTS = _CALLS | _OUTPUTS | {"other_json"}
_OPEN_CALLS = 1024
_ITEMS = 65_536  # of one request
_METADATA_PAIRS, _METADATA_KEY, _METADATA_VALUE = 16, 64, 512


@dataclass(frozen=True, slots=True)
class Request:
    """One turn, ready to be run."""

    parent: Node | None
    input: Sequence[items_pb2.Item]
    """The new items, references replaced by what they stand for."""
    legible: Sequence[items_pb2.Item]
    """The same as a model can be told them."""
    begins_anew: bool
    """Whether the input holds a compaction, which stands for all that was said before it."""
    settings: responses_pb2.Settings
    """As the client sent them: what is unset is the model server's choice."""
    added_tools: Sequence[items_pb2.Tool]
    """Tools that items of the conversation added, those of `input` included."""
    include: frozenset[str]
    moderation: responses_pb2.ModerationSettings | None
    store: bool
    generate: bool
    pending_calls: frozenset[str]
    """Calls of the conversation that are still without an output once `input` is read."""
    extra_json: str

    @property
    def tools(self) -> Sequence[items_pb2.Tool]:
        """What may be called."""
        return (
            [*self.settings.tools, *self.added_tools] if self.added_tools else self.settings.tools
        )

    @property
    def wants_logprobs(self) -> bool:
        """Whether the client wants to know how likely the text was."""
        return bool(self.settings.top_logprobs) or "message.output_text.logprobs" in self.include

    @property
    def only_compacts(self) -> bool:
        """Whether the client asks for a compaction and nothing else."""
        return bool(self.input) and self.input[-1].HasField("compaction_trigger")

    def echo(self) -> responses_pb2.Settings:
        """Return the settings as responses show them: with the protocol's defaults filled in."""
        settings = responses_pb2.Settings()
        settings.CopyFrom(_DEFAULTS)
        settings.MergeFrom(self.settings)
        if self.settings.HasField("tool_choice"):
            settings.ClearField("tool_choice_mode")
        if settings.HasField("conversation_id"):
            settings.conversation.id = settings.conversation_id
            settings.ClearField("conversation_id")
        if settings.HasField("prompt_cache_options"):
            settings.prompt_cache_options.mode = settings.prompt_cache_options.mode or "implicit"
            settings.prompt_cache_options.ttl = settings.prompt_cache_options.ttl or "30m"
        if settings.text.format.HasField("json_schema"):
            schema = settings.text.format.json_schema
            schema.strict = schema.strict  # said, also where it was left open
        settings.store = self.store
        settings.service_tier = "default"
        return settings


def understand(
    create: responses_pb2.CreateResponse,
    items: Sequence[items_pb2.Item],
    legible: Sequence[items_pb2.Item],
    parent: Node | None,
) -> Request:
    """Apply the rules. Raises `Refusal` for what the protocol refuses.

    `items` is what `new_items` returned, references replaced; `legible` is that as a model reads it.
    """
    settings = create.settings
    anew = any(item.HasField("compaction") for item in items)
    before = None if anew else parent
    store = is_stored(settings, parent)
    if settings.background and not store:
        message = "'background' needs a response that is stored: it could not be retrieved otherwise."
        raise Refusal("invalid_value", message, "store")
    _check_ranges(settings)
    check_metadata(settings.metadata)
    return Request(
        parent=parent,
        input=items,
        settings=settings,
        legible=legible,
        begins_anew=anew,
        added_tools=tools_with(legible, before.tools if before else ()),
        include=frozenset(create.include),
        moderation=create.moderation if create.HasField("moderation") else None,
        store=store,
        generate=not _is_warm_up(create),
        pending_calls=pending_calls(before.pending_calls if before else frozenset(), legible),
        extra_json=create.extra_json,
    )


def conversation_of(settings: responses_pb2.Settings) -> str:
    """Return the id of the conversation that a response is to be made in; empty if in none."""
    return settings.conversation.id or settings.conversation_id


def tools_with(
    items: Sequence[items_pb2.Item], before: Sequence[items_pb2.Tool]
) -> Sequence[items_pb2.Tool]:
    """Return the tools that a conversation has added once `items` are part of it."""
    added = [tool for item in items for tool in item.additional_tools.tools]
    return [*before, *added] if added else before


def check_size(create: responses_pb2.CreateResponse, parent: Node | None, most_bytes: int) -> None:
    """Refuse what would make a conversation larger than any may be."""
    if len(create.input) > _ITEMS:
        raise Refusal("invalid_value", f"At most {_ITEMS} items may be sent at once.", "input")
    before = parent.segment.length if parent else 0
    if before + create.ByteSize() > most_bytes:
        raise Refusal(
            "context_length_exceeded",
            f"A conversation may have at most {most_bytes} bytes here. Begin a new one.",
            "input",
        )


def new_items(create: responses_pb2.CreateResponse) -> Sequence[items_pb2.Item]:
    """Return the input as items; a plain string is one user message."""
    if not create.HasField("input_text"):
        return create.input
    part = items_pb2.ContentPart(input_text=items_pb2.Text(text=create.input_text))
    return [items_pb2.Item(message=items_pb2.Message(role="user", content=[part]))]


def pending_calls(before: frozenset[str], items: Sequence[items_pb2.Item]) -> frozenset[str]:
    """Return the calls that wait for an output after `items`.

    Raises `Refusal` for an output that answers no call: a model cannot make sense of it.
    """
    if not any(item.WhichOneof("kind") in _CALLS_AND_OUTPUTS for item in items):
        return before
    pending = set(before)
    answered: set[str] = set()
    for item in items:
        kind = item.WhichOneof("kind")
        if kind in _CALLS:
            pending.add(getattr(item, kind).call_id)
        elif kind == "other_json":
            _note_other(item.other_json, pending, answered)
        elif kind in _OUTPUTS:
            call_id = getattr(item, kind).call_id
            if call_id not in pending and call_id not in answered:
                raise Refusal(
                    "invalid_value",
                    f"No tool call found for the output with call_id '{call_id[:64]}'.",
                    "input",
                )
            pending.discard(call_id)
            answered.add(call_id)
    if len(pending) > _OPEN_CALLS:
        raise Refusal("invalid_value", f"More than {_OPEN_CALLS} calls have no output.", "input")
    return frozenset(pending)


def _note_other(item_json: str, pending: set[str], answered: set[str]) -> None:
    """Note a call, or an output, of a type that the contract does not know. They are never refused."""
    if "call_id" not in item_json:
        return
    item = orjson.loads(item_json)
    call_id, kind = item.get("call_id"), str(item.get("type"))
    if not isinstance(call_id, str):
        return
    if kind.endswith("_output"):
        pending.discard(call_id)
        answered.add(call_id)
    elif kind.endswith("_call"):
        pending.add(call_id)


def _is_warm_up(create: responses_pb2.CreateResponse) -> bool:
    prewarms = create.settings.prompt_cache_options.prewarm
    return prewarms or (create.HasField("generate") and not create.generate)


def is_stored(settings: responses_pb2.Settings, parent: Node | None) -> bool:
    """Decide whether the response is stored. What was said unstored is never stored later on."""
    continues_unstored = parent is not None and not isinstance(parent, DurableNode)
    if not settings.HasField("store"):
        return not continues_unstored
    if settings.store and continues_unstored:
        raise Refusal(
            "invalid_value",
            "'store' cannot be true: the response continues one with store=false, "
            "and what was said there must not be stored. Leave 'store' out or set it to false.",
            "store",
        )
    return settings.store


def check_supported(settings: responses_pb2.Settings) -> None:
    """Refuse what the protocol defines and this server cannot do, or not together."""
    if settings.HasField("prompt_json"):
        raise Refusal(
            "unsupported_parameter",
            "'prompt' is not supported: there are no prompt templates here. Send 'instructions'.",
            "prompt",
        )
    if not conversation_of(settings):
        return
    if settings.HasField("previous_response_id"):
        message = "'conversation' and 'previous_response_id' exclude each other."
        raise Refusal("invalid_value", message, "conversation")
    if settings.HasField("store") and not settings.store:
        message = "'store' cannot be false: a conversation keeps what is said in it."
        raise Refusal("invalid_value", message, "store")


def _check_ranges(settings: responses_pb2.Settings) -> None:
    for field, value in settings.ListFields():
        if (bounds := _RANGES.get(field.name)) and not bounds[0] <= value <= bounds[1]:
            message = f"'{field.name}' must be between {bounds[0]:g} and {bounds[1]:g}."
            raise Refusal("invalid_value", message, field.name)
        if (words := _WORDS.get(field.name)) and value not in words:
            name = field.name.removesuffix("_mode")
            message = f"'{name}' must be one of {', '.join(map(repr, words))}."
            raise Refusal("invalid_value", message, name)


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Refuse more of the client's own pairs than may be attached to anything, or longer ones."""
    if len(metadata) > _METADATA_PAIRS:
        raise Refusal("invalid_value", f"At most {_METADATA_PAIRS} pairs are allowed.", "metadata")
    for key, value in metadata.items():
        if len(key) > _METADATA_KEY or len(value) > _METADATA_VALUE:
            raise Refusal(
                "invalid_value",
                f"Keys have at most {_METADATA_KEY} characters, values {_METADATA_VALUE}.",
                "metadata",
            )


_DEFAULTS = responses_pb2.Settings(
    tool_choice_mode="auto",
    temperature=1.0,
    top_p=1.0,
    top_logprobs=0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    parallel_tool_calls=True,
    truncation="disabled",
    reasoning=responses_pb2.ReasoningSettings(),
    text=responses_pb2.TextSettings(
        format=responses_pb2.TextFormat(text=responses_pb2.PlainTextFormat()), verbosity="medium"
    ),
    background=False,
)
