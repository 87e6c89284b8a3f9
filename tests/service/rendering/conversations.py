"""Random conversations, and how a template is asked whether they add up."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from hypothesis import strategies as st

from service.rendering import Message, Opening, Piece, Template
from service.rendering.proving import cycles_of

TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Looks at something.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}

WORDS = st.text(st.sampled_from("ab Z9.,!?\n\té한🌲{}\"'\\"), max_size=12)
"""Text in which no special token is spelled."""


def answers(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[Message]]:
    """Return a user's message, or none, and what it leads to: calls and outputs, then an answer."""
    return st.builds(
        _turn, text, st.lists(text, max_size=2), st.lists(text, max_size=2), st.booleans()
    )


def _turn(asked: str, looks: list[str], thoughts: list[str], speaks: bool) -> list[Message]:
    messages: list[Message] = [{"role": "user", "content": asked}] if speaks else []
    for number, look in enumerate(looks):
        call = {"name": "look", "arguments": json.dumps({"at": look}, ensure_ascii=False)}
        calls = [{"id": str(number), "type": "function", "function": call}]
        messages.append({"role": "assistant", "content": asked, "tool_calls": calls})
        output = {"role": "tool", "tool_call_id": str(number), "name": "look", "content": look}
        messages.append(output)
    thought = {"reasoning_content": thoughts[0]} if thoughts else {}
    return [*messages, {"role": "assistant", "content": asked, **thought}]


def openings(text: st.SearchStrategy[str]) -> st.SearchStrategy[Opening]:
    """Return instructions and tools, or none of them."""
    systems = st.lists(text.map(lambda said: {"role": "system", "content": said}), max_size=1)
    return st.builds(Opening, systems, st.sampled_from([[], [TOOL]]), st.just({}))


def conversations(text: st.SearchStrategy[str]) -> st.SearchStrategy[list[list[Message]]]:
    """Return turns, of which the last is new input; the first one has a message of the user."""
    asked = text.map(lambda said: [{"role": "user", "content": said}])
    first = answers(text).filter(lambda turn: turn[0]["role"] == "user")
    return st.builds(
        lambda *turns: [turns[0], *turns[1], turns[2]],
        first,
        st.lists(answers(text), max_size=2),
        asked,
    )


def by_turns(
    template: Template, opening: Opening, turns: Sequence[Sequence[Message]]
) -> list[Piece]:
    """Render a conversation turn by turn."""
    told = [template.turn(turn, cycle) for turn, cycle in zip(turns, cycles_of(turns), strict=True)]
    return [*template.preamble(opening), *chain(*told), *template.answer_opens(opening)]


def messages_of(turns: Iterable[Iterable[Message]]) -> list[Message]:
    """Return the messages of turns."""
    return list(chain.from_iterable(turns))
