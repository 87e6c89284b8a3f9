"""Calls whose arguments stand one by one between tags: each is passed on when it is whole."""

import json
import re
from collections.abc import Mapping

from service.backends import CallText, Produced
from service.backends.tools import CallableTool
from service.errors import ModelError
from service.parsing.calls import Call, Tools, call_begins
from service.parsing.held import Held
from service.parsing.marks import TaggedForm
from service.parsing.typed import as_json

_LONGEST_KEY = 512  # characters of a key, with what stands between it and its value
_LONGEST_END = 512  # characters of the end of a value, with the white space in it
_REST_OF_NAME = re.compile(r"[^\w<\[]*")
"""What stands between the name of a call without arguments and its closing marks."""


class TaggedCall(Call):
    """A call with its arguments between tags: each is passed on when it is whole."""

    def __init__(self, form: TaggedForm, tools: Tools, held: Held, mark_ends: int) -> None:
        super().__init__(held, mark_ends)
        self._form, self._tools = form, tools
        self._tool: CallableTool
        self._key = ""
        self._value: list[str] = []
        self._told = 0

    def end(self) -> list[Produced]:
        """Finish a call that lacks nothing but closing marks."""
        if self._state == self._in_value and (produced := self._value_ends(self._last())):
            return [*produced, *self._whole()]
        return super().end()

    def _head(self) -> list[Produced] | None:
        text = self._window()
        named = self._form.named.match(text)
        tool = self._tools.get(named["name"]) if named else None
        if tool and (begins := self._form.begins.match(text)):
            self._held.drop(begins.end())
            self._tool, self._returns, self._state = tool, False, self._between
            return [call_begins(tool)]
        if (named and not tool) or self._too_long():
            return self._refuted()
        return None

    def _between(self) -> list[Produced] | None:
        """Read on where a key or the end of the call stands."""
        key_opens = self._form.key_opens.match(self._held.text)
        if key_opens is None:
            return self._whole()
        self._held.drop(key_opens.end())
        self._state = self._in_key
        return []

    def _in_key(self) -> list[Produced] | None:
        key = self._form.key.match(self._held.text)
        if key is None:
            if len(self._held.text) > _LONGEST_KEY:
                raise ModelError("server_error", "The model wrote a call that makes no sense.")
            return None
        self._held.drop(key.end())
        self._key, self._state = key["key"], self._in_value
        return []

    def _in_value(self) -> list[Produced] | None:
        if produced := self._value_ends(self._form.value_closes.search(self._held.text)):
            self._state = self._between
            return produced
        sure = len(self._held.text) - _LONGEST_END
        if sure > 0:
            self._value.append(self._held.text[:sure])
            self._held.drop(sure)
        return None

    def _last(self) -> re.Match[str] | None:
        return self._form.last_value_closes.search(self._held.text)

    def _value_ends(self, closes: re.Match[str] | None) -> list[Produced]:
        if closes is None:
            return []
        value = "".join([*self._value, self._held.text[: closes.start()]])
        self._held.drop(closes.end())
        self._value = []
        before, after = self._form.margins
        return self._argument(value.removeprefix(before).removesuffix(after))

    def _argument(self, value: str) -> list[Produced]:
        self._told += 1
        if self._tool.kind == "custom":
            return [CallText(value if self._key == "input" else "")]
        schema = self._tool.parameters.get("properties")
        known = schema.get(self._key) if isinstance(schema, Mapping) else None
        opens = "{" if self._told == 1 else ", "
        key = json.dumps(self._key, ensure_ascii=False)
        return [CallText(f"{opens}{key}: {as_json(value, known)}")]

    def _whole(self) -> list[Produced]:
        if rest := _REST_OF_NAME.match(self._held.text):
            self._held.drop(rest.end())
        end = "}" if self._told else "{}"
        told: list[Produced] = [] if self._tool.kind == "custom" else [CallText(end)]
        return [*told, *self._closed()]
