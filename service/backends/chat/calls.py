"""Calls of tools, as chat servers stream them: in pieces or whole, one after the other."""

from typing import Any, NamedTuple

import orjson

from service.backends import CallText, CustomCallBegins, FunctionCallBegins, Produced
from service.backends.chat.inputs import WrappedInput
from service.backends.tools import Toolbox
from service.backends.values import text_in
from service.errors import ModelError


class _Open(NamedTuple):
    """The call that began last."""

    number: int
    identity: str
    wrapped: WrappedInput | None
    """Of a custom tool."""

    def is_continued_by(self, piece: dict[str, Any]) -> bool:
        """Whether a piece belongs to this call: some servers number calls, some name them, some both."""
        identity = piece.get("id")
        same = not identity or not self.identity or identity == self.identity
        return same and bool(piece.get("index", self.number) == self.number)


class Calls:
    """Makes sense of one answer's calls."""

    def __init__(self, toolbox: Toolbox) -> None:
        self._toolbox = toolbox
        self._open: _Open | None = None
        self._told = False  # whether there was anything in the open call
        self.count = 0

    def begins(self, piece: dict[str, Any]) -> bool:
        """Whether a piece is the first of another call."""
        continued = self._open is not None and self._open.is_continued_by(piece)
        return not continued and bool((piece.get("function") or {}).get("name"))

    def push(self, piece: dict[str, Any]) -> list[Produced]:
        """Read more. Raises `ModelError` where it belongs to no call that is open."""
        function = piece.get("function") or {}
        arguments = _text(function.get("arguments"))
        if self.begins(piece):
            return [
                *self.end(),
                self._begun(text_in(function["name"]), piece),
                *self._more(arguments),
            ]
        if self._open is not None and self._open.is_continued_by(piece):
            return self._more(arguments)
        if arguments:
            raise ModelError("server_error", "The model server sent arguments without their call.")
        return []

    def end(self) -> list[Produced]:
        """Read what was held back of the open call, which is whole. One without arguments has none."""
        if self._open is None:
            return []
        call, self._open = self._open, None
        if call.wrapped is not None:
            rest = call.wrapped.end()
            return [CallText(rest)] if rest else []
        return [] if self._told else [CallText("{}")]

    def _begun(self, name: str, piece: dict[str, Any]) -> Produced:
        tool = self._toolbox.tools.get(name)
        is_custom = tool is not None and tool.kind == "custom"
        wrapped = WrappedInput() if is_custom else None
        self._open = _Open(piece.get("index", self.count), piece.get("id") or "", wrapped)
        self._told = False
        self.count += 1
        begins = CustomCallBegins if is_custom else FunctionCallBegins
        return begins(tool.name, tool.namespace) if tool else begins(name)

    def _more(self, arguments: str) -> list[Produced]:
        assert self._open
        wrapped = self._open.wrapped
        text = arguments if wrapped is None else wrapped.push(arguments)
        self._told = self._told or bool(text)
        return [CallText(text)] if text else []


def _text(arguments: Any) -> str:
    """Return arguments as JSON text: some servers send an object."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else orjson.dumps(arguments).decode()
