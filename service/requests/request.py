"""What a `response.create` comes down to, once its parent is known.

Pure rules: defaults, inheritance and the refusals that need no model server. They are listed in
docs/protocol.md.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import orjson

from service.closed import MOST_OPENED, TOO_MUCH_SEALED, opened_bytes
from service.conversation import AddedTools, DurableNode, Node
from service.errors import Refusal
from service.requests.calls import is_declared, tie
from service.requests.messages import text_message
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
_OPEN_CALLS = 1024
_ADDED_TOOLS = 1024  # of a conversation
_ITEMS = 65_536  # of a request, and of a conversation
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
    added_tools: AddedTools | None
    """Tools that items of the conversation added, those of `input` included."""
    tools: Sequence[items_pb2.Tool]
    """What may be called: the request's own tools, then those."""
    include: frozenset[str]
    moderation: responses_pb2.ModerationSettings | None
    store: bool
    generate: bool
    pending_calls: frozenset[str]
    """Calls of the conversation that are still without an output once `input` is read."""
    extra_json: str

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
    anew = begins_anew(items)
    before = None if anew else parent
    added = tools_with(legible, before.tools if before else None)
    store = is_stored(settings, parent)
    _check_background(settings, store)
    _check_ranges(settings)
    check_metadata(settings.metadata)
    return Request(
        parent=parent,
        input=items,
        settings=settings,
        legible=legible,
        begins_anew=anew,
        added_tools=added,
        tools=[*settings.tools, *added.parsed()] if added else settings.tools,
        include=frozenset(create.include),
        moderation=create.moderation if create.HasField("moderation") else None,
        store=store,
        generate=not _is_warm_up(create),
        pending_calls=pending_calls(before.pending_calls if before else frozenset(), legible),
        extra_json=create.extra_json,
    )


def conversation_of(settings: responses_pb2.Settings) -> str | None:
    """Return the id of the conversation that a response is to be made in, if in one."""
    if settings.HasField("conversation"):
        return settings.conversation.id
    return settings.conversation_id if settings.HasField("conversation_id") else None


def begins_anew(items: Iterable[items_pb2.Item]) -> bool:
    """Tell whether items hold a compaction, which stands for all that was said before it."""
    return any(item.HasField("compaction") for item in items)


def tools_with(items: Sequence[items_pb2.Item], before: AddedTools | None) -> AddedTools | None:
    """Return the tools that a conversation has added once legible `items` are part of it.

    Raises `Refusal` for too many.
    """
    added = [tool for item in items for tool in item.additional_tools.tools]
    tools = AddedTools(before, added) if added else before
    if tools and tools.count > _ADDED_TOOLS:
        raise Refusal(
            "invalid_value",
            f"The 'additional_tools' of a conversation may be {_ADDED_TOOLS} at most. Send what is "
            "needed for one request in its 'tools', or begin a new conversation.",
            "input",
        )
    return tools


def check_size(create: responses_pb2.CreateResponse, parent: Node | None, most_bytes: int) -> None:
    """Refuse what would make a conversation larger than any may be."""
    if len(create.input) > _ITEMS:
        raise Refusal("invalid_value", f"At most {_ITEMS} items may be sent at once.", "input")
    before = None if parent is None or begins_anew(create.input) else parent.segment
    if (before.length if before else 0) + create.ByteSize() > most_bytes:
        raise _too_long(
            f"A conversation may have at most {most_bytes} bytes here. Begin a new one."
        )
    if create.input and (before.count if before else 0) + len(create.input) > _ITEMS:
        raise _too_long(f"A conversation may have at most {_ITEMS} items. Begin a new one.")
    if (before.opened if before else 0) + opened_bytes(create.input) > MOST_OPENED:
        raise _too_long(TOO_MUCH_SEALED)


def new_items(create: responses_pb2.CreateResponse) -> Sequence[items_pb2.Item]:
    """Return the input as items; a plain string is one user message. Raises `Refusal` for both at once."""
    if not create.HasField("input_text"):
        return create.input
    if create.input:  # JSON cannot say so
        raise Refusal("invalid_value", "'input' is either a text or items.", "input")
    return [text_message("user", create.input_text)]


def pending_calls(before: frozenset[str], items: Sequence[items_pb2.Item]) -> frozenset[str]:
    """Return the calls that wait for an output after `items`.

    Raises `Refusal` for an output that answers no call: a model cannot make sense of it. Outputs of
    types that the contract does not know are never refused.
    """
    pending = set(before)
    answered: set[str] = set()
    for item in items:
        if (tied := tie(item)) is None:
            continue
        if not tied.answers:
            pending.add(tied.call_id)
            continue
        known = tied.call_id in pending or tied.call_id in answered
        if not known and is_declared(item):
            raise _unanswerable(tied.call_id)
        pending.discard(tied.call_id)
        answered.add(tied.call_id)
    if len(pending) > _OPEN_CALLS:
        raise Refusal("invalid_value", f"More than {_OPEN_CALLS} calls have no output.", "input")
    return before if pending == before else frozenset(pending)


def _unanswerable(call_id: str) -> Refusal:
    message = f"No tool call found for the output with call_id '{call_id[:64]}'."
    return Refusal("invalid_value", message, "input")


def _too_long(message: str) -> Refusal:
    return Refusal("context_length_exceeded", message, "input")


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
    if settings.tool_choice.other_json and not _type_of(settings.tool_choice.other_json):
        message = "Missing required parameter: 'tool_choice.type'."
        raise Refusal("missing_required_parameter", message, "tool_choice.type")
    if settings.HasField("prompt_json"):
        raise Refusal(
            "unsupported_parameter",
            "'prompt' is not supported: there are no prompt templates here. Send 'instructions'.",
            "prompt",
        )
    if conversation_of(settings) is None:
        return
    if settings.HasField("previous_response_id"):
        message = "'conversation' and 'previous_response_id' exclude each other."
        raise Refusal("invalid_value", message, "conversation")
    if settings.HasField("store") and not settings.store:
        message = "'store' cannot be false: a conversation keeps what is said in it."
        raise Refusal("invalid_value", message, "store")


def _type_of(object_json: str) -> str:
    """Return an object's type; empty if it has none."""
    kind = orjson.loads(object_json).get("type")
    return kind if isinstance(kind, str) else ""


def _check_background(settings: responses_pb2.Settings, store: bool) -> None:  # noqa: FBT001
    """Refuse a response that nobody waits for and nobody could retrieve."""
    if settings.background and not store:
        message = "'background' needs a response that is stored; it could not be retrieved."
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
