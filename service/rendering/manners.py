"""How a chat template wants to be told things: found out by trying, on made-up messages.

Templates differ in what they accept: arguments as objects or as text, system messages in the middle or
not, several messages of the user in a row or not. What one refuses it is told in another way; what it
leaves out, such as calls, it cannot be told at all.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from typing import Any, Literal, TypeAlias, get_args

from service.errors import ModelError
from service.rendering import Message
from service.rendering.jinja import Chat, JinjaTemplate
from service.rendering.made_up import (
    AFTER,
    BEFORE,
    KEY,
    NAME,
    SAID,
    THOUGHT,
    TOOL,
    answer,
    call,
    output,
    user,
)

Arguments: TypeAlias = Literal["object", "text"]
Ids: TypeAlias = Literal["given", "short"]
Thoughts: TypeAlias = Literal["reasoning_content", "reasoning", "thinking"]
Known: TypeAlias = Literal["tools", "calls", "outputs", "thoughts"]

_SHORT_ID = 9  # characters that some templates insist on
_BARE: Sequence[str | None] = ("", None)
_WORDS = {"calls": "calls", "outputs": "outputs of tools"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Manners:
    """How messages are put to one template."""

    arguments: Arguments = "object"
    bare: str | None = ""
    """The content of an answer that is nothing but calls."""
    ids: Ids = "given"
    thoughts: Thoughts = "reasoning_content"
    late_system: Literal["system", "user"] = "system"
    """Who says what a system message says that does not stand first."""
    neighbours: Literal["apart", "joined"] = "apart"
    """Whether messages of the user in a row become one."""
    known: frozenset[Known] = field(default=frozenset(), repr=False)
    """What the template can be told at all."""

    def first(self, messages: Sequence[Message]) -> list[Message]:
        """Put messages that a conversation begins with."""
        systems = next((n for n, m in enumerate(messages) if m["role"] != "system"), len(messages))
        return [*messages[:systems], *self.later(messages[systems:])]

    def later(self, messages: Sequence[Message]) -> list[Message]:
        """Put messages that others may stand before. Raises `ModelError` for what cannot be told."""
        return [self._put(message) for message in messages]

    def joined(self, messages: Sequence[Message]) -> list[Message]:
        """Make one of several messages in a row, where the template wants it so."""
        if self.neighbours == "apart":
            return list(messages)
        by_role = groupby(messages, key=lambda message: message["role"])
        return [one for role, row in by_role for one in _alike(role, list(row))]

    def _put(self, message: Message) -> Message:
        match message["role"]:
            case "system":
                return {**message, "role": self.late_system}
            case "assistant":
                return self._answer(message)
            case "tool":
                self._need("outputs")
                return {**message, "tool_call_id": self._id(message["tool_call_id"])}
            case _:
                return message

    def _answer(self, message: Message) -> Message:
        answer = dict(message)
        if thought := answer.pop("reasoning_content", None):
            answer[self.thoughts] = thought
        if calls := message.get("tool_calls"):
            self._need("calls")
            answer["tool_calls"] = list(map(self._call, calls))
            answer["content"] = message["content"] or self.bare
        return answer

    def _call(self, call: Mapping[str, Any]) -> Mapping[str, Any]:
        function = call["function"]
        if self.arguments == "object":
            function = {**function, "arguments": _object(function["arguments"])}
        return {**call, "id": self._id(call["id"]), "function": function}

    def _id(self, call_id: str) -> str:
        if self.ids == "given":
            return call_id
        return hashlib.blake2b(call_id.encode()).hexdigest()[:_SHORT_ID]

    def _need(self, what: Literal["calls", "outputs"]) -> None:
        if what not in self.known:
            raise ModelError("invalid_prompt", f"This model cannot be told of {_WORDS[what]}.")


def manners_of(template: JinjaTemplate) -> Manners:
    """Return how messages are put to a template."""
    manners = _of_calls(template)
    outputs = [user(), *([call(BEFORE)] if "calls" in manners.known else [answer()]), output(AFTER)]
    manners = _knowing(template, manners, "outputs", outputs, AFTER)
    manners = _of_thoughts(template, manners)
    if _shown(template, Chat([user()], [TOOL]), NAME):
        manners = replace(manners, known=manners.known | {"tools"})
    late = [user(), answer(BEFORE), {"role": "system", "content": SAID}, user(AFTER)]
    if not _shown(template, Chat(late), BEFORE, SAID, AFTER):
        manners = replace(manners, late_system="user")
    if not _shown(template, Chat([user(SAID), user(AFTER)]), SAID, AFTER):
        manners = replace(manners, neighbours="joined")
    return manners


def _of_calls(template: JinjaTemplate) -> Manners:
    """Return the first way in which a call is told in full."""
    ways = product(get_args(Ids), get_args(Arguments), _BARE)
    for ids, arguments, bare in ways:
        manners = Manners(ids=ids, arguments=arguments, bare=bare, known=frozenset({"calls"}))
        if _shown(template, Chat(manners.later([user(), call(BEFORE)]), [TOOL]), NAME, KEY, BEFORE):
            return manners
    return Manners()


def _of_thoughts(template: JinjaTemplate, manners: Manners) -> Manners:
    for key in get_args(Thoughts):
        trial = replace(manners, thoughts=key)
        knowing = _knowing(template, trial, "thoughts", [user(), answer(SAID, THOUGHT)], THOUGHT)
        if "thoughts" in knowing.known:
            return knowing
    return manners


def _knowing(
    template: JinjaTemplate, manners: Manners, what: Known, told: Sequence[Message], word: str
) -> Manners:
    """Return manners that know of something, if the template tells it."""
    knowing = replace(manners, known=manners.known | {what})
    shown = _shown(template, Chat(knowing.later(told), [TOOL]), word)
    return knowing if shown else manners


def _shown(template: JinjaTemplate, chat: Chat, *words: str) -> bool:
    """Whether words are rendered, in this order."""
    try:
        text = template.specials.spelled(template.told(chat))
    except ModelError:
        return False
    places = [text.find(word) for word in words]
    return -1 not in places and places == sorted(places)


def _alike(role: str, messages: Sequence[Message]) -> Sequence[Message]:
    """Make one of messages of one role, where that says the same."""
    if role not in {"user", "system"} or len(messages) == 1:
        return messages
    content = "\n\n".join(message["content"] for message in messages)
    return [{**messages[0], "content": content}]


def _object(arguments: str) -> Any:
    """Return arguments as an object; what is no JSON stays what it is."""
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments
