"""Answers in the harmony format: messages with headers that say what each is for.

A header names a channel: on `analysis` a model thinks, on `final` it answers, and on `commentary` it
says what it is about to do, or calls a function where the header also names a recipient.
"""

import re
from collections.abc import Callable

from service.backends import CallText, ItemEnds, Produced
from service.backends.tools import CallableTool
from service.parsing import Scores
from service.parsing.calls import Tools, broken_off, call_begins
from service.parsing.held import Held
from service.parsing.objects import ObjectEnd
from service.parsing.stretches import beginnings, begun
from service.parsing.texts import InputReader

_HEADER_ENDS = "<|message|>"
_ENDS = ("<|end|>", "<|return|>", "<|call|>")
_STARTS = "<|start|>"
_BEGINS = (_STARTS, "<|channel|>")
_MARK = re.compile("|".join(map(re.escape, (*_ENDS, *_BEGINS))))
_BEGUN = beginnings((*_ENDS, *_BEGINS, _HEADER_ENDS))
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([^\s<]+)")
_LONGEST_HEADER = 512  # characters; what is longer is text without a header
_SLICE = 2048  # characters that are read at once


class HarmonyReader:
    """Messages on channels, with special tokens spelled out. Calls of unknown functions are text."""

    def __init__(self, tools: Tools, held: Held, opened: str = "<|start|>assistant") -> None:
        """`held` is empty; `opened` is the text that makes the model answer."""
        self._tools = tools
        self._held = held
        self._say: Callable[[int], list[Produced]] = held.tell
        self._call: _Call | None = None
        self._said = False
        """Whether anything of the open message was told."""
        self._state: Callable[[], list[Produced] | None] = self._header
        last = opened.rpartition(_STARTS)[2]
        self._opened, written, _ = last.partition(_HEADER_ENDS)
        if written:
            self._begin(self._opened)

    def push(self, text: str, scores: Scores = ()) -> list[Produced]:
        """Read more; hold back headers, and what may be the beginning of a mark."""
        if self._said and not self._held.text and "<" not in text:
            self._held.add(text, scores)
            return self._say(len(text))
        produced = self._read(text[:_SLICE], scores)
        for start in range(_SLICE, len(text), _SLICE):
            produced += self._read(text[start : start + _SLICE], ())
        return produced

    def end(self) -> list[Produced]:
        """Read what was held back: the answer's own end is its last mark. Raises `ModelError`."""
        rest = self._rest()
        return [*rest, *self._call.end()] if self._call else rest

    def cut(self) -> list[Produced]:
        """Read what was held back; leave a call unfinished."""
        rest = self._rest()
        return [*rest, *self._call.cut()] if self._call else rest

    def _read(self, text: str, scores: Scores) -> list[Produced]:
        self._held.add(text, scores)
        produced: list[Produced] = []
        while (step := self._state()) is not None:
            produced += step
        return produced

    def _rest(self) -> list[Produced]:
        held = self._held.text
        if self._state == self._header and (not held.strip() or held.lstrip().startswith(_BEGINS)):
            return []
        return self._told(len(held) - (begun(held, _BEGUN) if self._call else 0))

    def _header(self) -> list[Produced] | None:
        """Read up to where a message's content begins."""
        text = self._held.text
        ends = text.find(_HEADER_ENDS)
        if ends >= 0:
            self._held.drop(ends + len(_HEADER_ENDS))
            return self._begin(self._opened + text[:ends])
        if len(text) <= _LONGEST_HEADER:
            return None
        self._begin("")
        return self._told(len(text))

    def _begin(self, header: str) -> list[Produced]:
        self._opened, self._state = "", self._content
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        tool = self._tools.get(recipient[1]) if recipient else None
        if tool is not None:
            self._call = _Call(tool)
            return [call_begins(tool)]
        thinks = channel is not None and channel[1] == "analysis"
        self._say = self._held.think if thinks else self._held.tell
        return []

    def _content(self) -> list[Produced] | None:
        """Read up to the mark that ends the message."""
        text = self._held.text
        mark = _MARK.search(text)
        if mark is None:
            sure = len(text) - begun(text, _BEGUN)
            return self._told(sure) if sure else None
        told = self._told(mark.start())
        if mark[0] in _ENDS:
            self._held.drop(len(mark[0]))
        return [*told, *self._message_ends()]

    def _told(self, length: int) -> list[Produced]:
        if self._call:
            more = self._held.text[:length]
            self._held.drop(length)
            return self._call.push(more)
        self._said = self._said or length > 0
        return self._say(length)

    def _message_ends(self) -> list[Produced]:
        ended: list[Produced] = self._call.whole() if self._call else []
        if self._said:
            ended = [ItemEnds()]
        self._call, self._said, self._state = None, False, self._header
        return ended


class _Call:
    """The arguments of a call, which are all of a message."""

    def __init__(self, tool: CallableTool) -> None:
        self._input = InputReader() if tool.kind == "custom" else None
        self._read: list[str] = []

    def push(self, text: str) -> list[Produced]:
        """Pass them on; a custom tool's input is inside, escaped."""
        self._read.append(text)
        if self._input:
            return self._input.push(text)
        return [CallText(text)] if text else []

    def whole(self) -> list[Produced]:
        """End the call."""
        return self._input.end() if self._input else [ItemEnds()]

    def end(self) -> list[Produced]:
        """End the call, if its arguments are whole. Raises `ModelError` if they are not."""
        arguments = "".join(self._read).lstrip()
        if arguments.startswith("{") and ObjectEnd().find(arguments) < 0:
            raise broken_off()
        return self.whole()

    def cut(self) -> list[Produced]:
        """Leave the call unfinished."""
        return self._input.cut() if self._input else []
