"""Calls that a model is made to make: we write their form, and it fills in the arguments."""

from dataclasses import dataclass

from service.errors import ModelError
from service.parsing.free import thinking
from service.parsing.marks import closing_marks
from service.parsing.syntax import JsonCalls, Syntax

_HARMONY = JsonCalls(
    "<|channel|>commentary to=functions.", " <|constrain|>json<|message|>", "<|call|>"
)


@dataclass(frozen=True, slots=True)
class ForcedCall:
    """What is written around a name and around its arguments, a JSON object, in the model's own form.

    Its marks are special tokens where the model's vocabulary has them. The name needs no escaping: joined
    names have only characters that stand for themselves.
    """

    opens: str
    """From the beginning of the answer to the name."""
    between: str
    closes: str


def forced_call(syntax: Syntax, opened: str = "") -> ForcedCall:
    """Return the form of a forced call; `opened` is the text that makes the model answer.

    Raises `ModelError` where a call cannot be forced: its arguments stand between tags, where no JSON
    Schema binds them, or the model knows no calls.
    """
    calls = _HARMONY if syntax.form == "harmony" else syntax.calls
    if not isinstance(calls, JsonCalls):
        raise ModelError(
            "invalid_prompt", "tool_choice demands a call, which this model cannot be held to."
        )
    thought_ends = f"\n{syntax.thought_closes}\n\n" if thinking(syntax, opened) else ""
    return ForcedCall(
        thought_ends + calls.before_name, calls.before_arguments, calls.after_arguments
    )


@dataclass(frozen=True, slots=True)
class CallEnd:
    """How to stop a model after one call."""

    word: str
    """What ends one call, and is part of what the model wrote."""
    rest: str
    """What the form has after it, and the stopped model did not write."""


def call_end(syntax: Syntax) -> CallEnd | None:
    """Return the stop word after one call; None if the form has none, and only reading tells its end."""
    if syntax.form == "harmony":
        return CallEnd(_HARMONY.after_arguments, "")
    match syntax.calls:
        case None:
            return None
        case JsonCalls(after_arguments=after):
            pass
        case tagged:
            after = tagged.after_call
    word = next((mark for mark in closing_marks(after) if mark[0] in "<[" and len(mark) > 1), None)
    return None if word is None else CallEnd(word, after[after.index(word) + len(word) :])
