"""What a simulated model decides to say: what it was told, else what is demanded, else what was said."""

import itertools
import json

from service.backends import CallText, CustomCallBegins, FunctionCallBegins, Prompt, Text
from service.backends.simulator.acts import Act, speak
from service.backends.simulator.example import example
from service.backends.simulator.reading import Line, lines_of
from service.backends.simulator.script import parse
from service.backends.tools import CallableTool, Toolbox, tool_choice

_MARK = "#sim "


def answer(prompt: Prompt) -> list[Act]:
    """Decide what to say. Raises `ModelError` for what cannot be understood or honoured."""
    speaker, said = _last_said(prompt)
    if speaker != "tool" and said.startswith(_MARK):
        return parse(said.removeprefix(_MARK))
    if tool := _demanded_tool(prompt):
        return _example_call(tool)
    if prompt.settings.text.format.HasField("json_schema"):
        return [*speak(Text, example(prompt.settings.text.format.json_schema.schema_json))]
    return [*speak(Text, said)]


def _last_said(prompt: Prompt) -> Line:
    """Return what was said last and not by a model; looks only as far back as it must."""
    earlier = (prompt.legible(segment.items) for segment in reversed(prompt.history))
    turns = itertools.chain([prompt.input], earlier)
    for line in itertools.chain.from_iterable(reversed(lines_of(items)) for items in turns):
        if line[0] in {"user", "developer", "tool"}:
            return line
    return "user", "Nothing was said."


def _demanded_tool(prompt: Prompt) -> CallableTool | None:
    """Return the tool that must be called; looks at tools only where a choice was made."""
    settings = prompt.settings
    if not settings.HasField("tool_choice") and settings.tool_choice_mode != "required":
        return None
    choice = tool_choice(settings, Toolbox(prompt.tools))
    return next(iter(choice.tools.values())) if choice.forced else None


def _example_call(tool: CallableTool) -> list[Act]:
    if tool.kind == "custom":
        return [CustomCallBegins(tool.name, tool.namespace), CallText("text")]
    arguments = example(json.dumps(tool.parameters))
    return [FunctionCallBegins(tool.name, tool.namespace), *speak(CallText, arguments)]
