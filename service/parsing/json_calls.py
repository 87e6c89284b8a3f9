"""Calls whose arguments are a JSON object, passed on as they are written."""

import json
import re
from typing import Any

import jiter

from service.backends import CallText, Produced
from service.backends.tools import CallableTool
from service.parsing.calls import Call, Tools, call_begins
from service.parsing.held import Held
from service.parsing.marks import NamedForm, ObjectForm
from service.parsing.objects import ObjectEnd
from service.parsing.texts import InputReader, input_in

_LONGEST_OBJECT = 4 * 1024 * 1024  # characters of an object that is held back until it is whole
_LONGEST_TAIL = 1024  # characters of an object that follow its arguments
_FIRST_KEY = re.compile(r'\{\s*(?:"(?P<key>[^"]*)(?P<key_ends>"?))?')


class JsonCall(Call):
    """A call whose arguments are a JSON object, passed on as it is written."""

    def __init__(self, held: Held, mark_ends: int) -> None:
        super().__init__(held, mark_ends)
        self._object = ObjectEnd()
        self._input: InputReader | None = None
        """Reads the arguments of a custom tool: its input is inside, escaped."""

    def end(self) -> list[Produced]:
        """Let what follows the arguments go."""
        return self._tail_ends() if self._state == self._tail else super().end()

    def cut(self) -> list[Produced]:
        """Let what follows the arguments go; tell what there is of a custom tool's input."""
        if self._state == self._tail:
            return self._tail_ends()
        unfinished = self._input.cut() if self._input else []
        return [*unfinished, *super().cut()]

    def _begin(self, tool: CallableTool, arguments_at: int) -> list[Produced]:
        self._held.drop(arguments_at)
        self._input = InputReader() if tool.kind == "custom" else None
        self._returns = False
        self._state = self._arguments
        return [call_begins(tool)]

    def _arguments(self) -> list[Produced] | None:
        text = self._held.text
        if not text:
            return None
        ends = self._object.find(text)
        more = text if ends < 0 else text[:ends]
        self._held.drop(len(more))
        produced: list[Produced] = self._input.push(more) if self._input else [CallText(more)]
        if ends < 0:
            return produced
        self._state = self._tail
        return [*produced, *(self._input.cut() if self._input else [])]

    def _tail(self) -> list[Produced] | None:
        """Read what follows the arguments and is no closing mark."""
        return self._closed()

    def _tail_ends(self) -> list[Produced]:
        self._held.drop(len(self._held.text))
        return self._closed()


class NamedCall(JsonCall):
    """A call with its name in front of its arguments."""

    def __init__(self, form: NamedForm, tools: Tools, held: Held, mark_ends: int) -> None:
        super().__init__(held, mark_ends)
        self._form, self._tools = form, tools

    def _head(self) -> list[Produced] | None:
        text = self._window()
        named = self._form.named.match(text)
        tool = self._tools.get(named["name"]) if named else None
        if tool and (begins := self._form.begins.match(text)):
            return self._begin(tool, begins.end())
        if (named and not tool) or self._too_long():
            return self._refuted()
        return None


class ObjectCall(JsonCall):
    """A call with name and arguments in one object."""

    def __init__(self, form: ObjectForm, tools: Tools, held: Held, mark_ends: int) -> None:
        super().__init__(held, mark_ends)
        self._form, self._tools = form, tools

    def _head(self) -> list[Produced] | None:
        text = self._window()
        begins = self._form.begins.match(text)
        if begins and (tool := self._tools.get(begins["name"])):
            return self._begin(tool, begins.end())
        opened = self._form.object.match(text)
        if opened is None:
            return self._unopened(text[self.length :])
        rest = text[opened.end() :]
        if not self._plausible(rest):
            return self._refuted()
        if not self._too_long() and ObjectEnd().find(rest) < 0:
            return None
        self._held.park(opened.end())
        self._object_at = self._held.parked
        self._state = self._whole
        return []

    def _unopened(self, rest: str) -> list[Produced] | None:
        """Wait for the object, past white space, an array's bracket and inner marks."""
        inner = [*self._form.opening.marks, "["]
        words = rest.strip()
        waits = not words or any(mark.startswith(words) for mark in inner)
        return None if waits and not self._too_long() else self._refuted()

    def _plausible(self, text: str) -> bool:
        """Return whether an object may be a call, by how it begins."""
        first = _FIRST_KEY.match(text)
        if first is None or (first.end() < len(text) and not first["key_ends"]):
            return False
        allowed = self._form.first_keys
        return not (first["key_ends"] and allowed) or first["key"] in (allowed or ())

    def _whole(self) -> list[Produced] | None:
        """Read the object up to its end, whatever the order in it."""
        text = self._held.text
        ends = self._object.find(text) if text else -1
        self._held.park(len(text) if ends < 0 else ends)
        if ends < 0 and self._held.parked > _LONGEST_OBJECT:
            return self._refuted_whole()
        return None if ends < 0 else self._called()

    def _called(self) -> list[Produced]:
        ends = self._held.parked
        self._held.unpark()
        name, arguments = self._parsed(self._held.text[self._object_at : ends])
        tool = self._tools.get(name)
        if tool is None or arguments is None:
            self.length = ends
            return self._refuted()
        self._held.drop(ends)
        self._returns = False
        text = input_in(arguments) if tool.kind == "custom" else arguments
        return [call_begins(tool), CallText(text), *self._closed()]

    def _parsed(self, text: str) -> tuple[str, str | None]:
        """Return name and arguments; no arguments if it is no call."""
        call = _object_in(text)
        if isinstance(inner := call.get("function"), dict):
            call = inner
        arguments = call.get(self._form.arguments_key)
        if isinstance(arguments, str):
            arguments = _object_in(arguments) or None
        if not isinstance(arguments, dict):
            return "", None
        return str(call.get(self._form.name_key)), json.dumps(arguments, ensure_ascii=False)

    def _tail(self) -> list[Produced] | None:
        """Read over what follows the arguments in the same object."""
        text = self._held.text
        words = text.lstrip()
        ends = ObjectEnd(depth=1).find(text[:_LONGEST_TAIL])
        if words[:1] not in {"", ","} or (ends < 0 and len(text) > _LONGEST_TAIL):
            return self._closed()
        if ends < 0:
            return None
        self._held.drop(ends)
        return self._closed()


def _object_in(text: str) -> dict[str, Any]:
    """Return the object that a text is; an empty one if it is none."""
    try:
        parsed = jiter.from_json(text.encode(), allow_inf_nan=False)
    except ValueError:  # a lone surrogate is one, too: nobody could be sent it
        return {}
    return parsed if isinstance(parsed, dict) else {}
