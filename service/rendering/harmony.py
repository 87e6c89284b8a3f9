"""Harmony, the format of gpt-oss, by OpenAI's own library for it.

A message has a channel: `analysis` is thought, `commentary` has calls, to `functions.<name>`, and what
is said before them, and `final` is the answer. An answer is several such messages, of which the last ends
with `<|return|>`, or with `<|call|>` where a tool is called; what was thought is told until the user
speaks again. Turns stand one after the other, each rendered by itself.

The library knows the vocabulary by its checksum alone: it is taken from the model's files, or from where
`TIKTOKEN_ENCODINGS_BASE` says, and never from the network. Text never becomes a special token in it.
"""

import base64
import importlib
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from service.errors import ModelError
from service.rendering import Cycle, Files, Message, Opening
from service.rendering.detokenizer import writing_of
from service.rendering.turns import asks

_BASE = "TIKTOKEN_ENCODINGS_BASE"
_FILE = "o200k_base.tiktoken"
_EFFORTS = {
    "none": "Low",
    "minimal": "Low",
    "low": "Low",
    "medium": "Medium",
    "high": "High",
    "xhigh": "High",
    "max": "High",
}
_loading = threading.Lock()
"""Where the vocabulary is, the library reads in the environment, which all threads share."""


class HarmonyTemplate:
    """Tells gpt-oss a conversation.

    Of the options it knows `reasoning_effort`, `model_identity`, `knowledge_cutoff` and
    `conversation_start_date`; without the last one the model is told no date.
    """

    additive = True

    def __init__(self, encoding: Any) -> None:
        """`encoding` is the library's `HarmonyEncoding`."""
        self._harmony = _library()
        self._encoding = encoding
        self.identity = "harmony/gpt-oss"
        self.ends = frozenset[int](encoding.stop_tokens_for_assistant_actions())
        self._opens: Sequence[int] = encoding.encode("<|start|>assistant", allowed_special="all")
        self.answer_closes: Sequence[int] = encoding.encode("<|end|>", allowed_special="all")
        self.kept_ends = frozenset[int](encoding.encode("<|call|>", allowed_special="all"))

    @classmethod
    def of(cls, files: Files) -> "HarmonyTemplate":
        """Make one of a model's files. Takes a second or so. Raises `ModelError` for the operator."""
        harmony = _library()
        try:
            with _loading, _vocabulary(files):
                return cls(harmony.load_harmony_encoding("HarmonyGptOss"))
        except harmony.HarmonyError as error:
            raise ModelError(
                "server_error", "The vocabulary is not the one that gpt-oss was made with."
            ) from error

    def answer_opens(self, opening: Opening) -> Sequence[int]:
        """Return what makes the model answer: it chooses the channel itself."""
        return self._opens

    def preamble(self, opening: Opening) -> Sequence[int]:
        """Render what stands before the first turn. Raises `ModelError`."""
        return self._rendered(self._opening(opening))

    def turn(self, messages: Sequence[Message], cycle: Cycle) -> Sequence[int]:
        """Render a turn. Raises `ModelError`."""
        return self._rendered(self._turn(messages, cycle))

    def whole(self, opening: Opening, messages: Sequence[Message]) -> Sequence[int]:
        """Render a whole conversation up to where the model answers. Raises `ModelError`."""
        told = chain(self._opening(opening), self._turn(messages, Cycle.OPEN))
        return [*self._rendered(told), *self._opens]

    def _rendered(self, messages: Iterable[Any]) -> list[int]:
        try:
            told = self._harmony.Conversation.from_messages(list(messages))
            as_it_is = self._harmony.RenderConversationConfig(auto_drop_analysis=False)
            ids: list[int] = self._encoding.render_conversation(told, as_it_is)
        except (self._harmony.HarmonyError, ValueError, RecursionError) as error:
            raise ModelError(
                "invalid_prompt", "This model's format has no form for this conversation."
            ) from error
        return ids

    def _opening(self, opening: Opening) -> Iterator[Any]:
        """Return what the model is, and how it is instructed; then the examples, if there are any."""
        yield self._said("system", self._system(opening.options))
        instructions = [m["content"] for m in opening.messages if m["role"] == "system"]
        if instructions or opening.tools:
            yield self._said("developer", self._developer("\n\n".join(instructions), opening.tools))
        yield from self._turn([m for m in opening.messages if m["role"] != "system"], Cycle.CLOSED)

    def _system(self, options: Mapping[str, Any]) -> Any:
        told = {
            name: str(options[name])
            for name in ("model_identity", "knowledge_cutoff", "conversation_start_date")
            if options.get(name) is not None
        }
        effort = self._harmony.ReasoningEffort(_effort(options.get("reasoning_effort")))
        return self._harmony.SystemContent(reasoning_effort=effort, **told)

    def _developer(self, instructions: str, tools: Sequence[Mapping[str, Any]]) -> Any:
        content = self._harmony.DeveloperContent.new()
        if instructions:
            content = content.with_instructions(instructions)
        functions = [self._harmony.ToolDescription(**_described(tool)) for tool in tools]
        return content.with_function_tools(functions) if functions else content

    def _turn(self, messages: Sequence[Message], cycle: Cycle) -> Iterator[Any]:
        """Return messages in Harmony's form, thoughts only where the user has not spoken since."""
        for at, message in enumerate(messages):
            match message["role"]:
                case "assistant":
                    thinks = cycle is Cycle.OPEN and not asks(messages[at:])
                    yield from self._answer(message, _thoughts(message) if thinks else "")
                case "tool":
                    yield self._output(message)
                case "system":
                    yield self._said("developer", self._developer(message["content"], ()))
                case _:
                    yield self._said("user", message["content"])

    def _answer(self, message: Message, thoughts: str) -> Iterator[Any]:
        calls = message.get("tool_calls") or ()
        if thoughts:
            yield self._said("assistant", thoughts).with_channel("analysis")
        if message["content"] or not calls:
            channel = "commentary" if calls else "final"
            yield self._said("assistant", message["content"]).with_channel(channel)
        for call in calls:
            function = call["function"]
            told = self._said("assistant", function["arguments"]).with_channel("commentary")
            to_function = told.with_recipient(f"functions.{function['name']}")
            yield to_function.with_content_type("<|constrain|>json")

    def _output(self, message: Message) -> Any:
        author = {"role": "tool", "name": f"functions.{message.get('name', 'unknown')}"}
        told = self._harmony.Message.from_author_and_content(author, message["content"])
        return told.with_recipient("assistant").with_channel("commentary")

    def _said(self, role: str, content: Any) -> Any:
        harmony = self._harmony
        return harmony.Message.from_role_and_content(harmony.Role(role), content)


def _thoughts(message: Message) -> str:
    return str(message.get("reasoning_content") or "")


def _effort(effort: Any) -> str:
    """Return an effort as Harmony names the nearest. Raises `ModelError` for what is none."""
    if effort is None:
        return "Medium"
    if not isinstance(effort, str) or effort not in _EFFORTS:
        raise ModelError("invalid_prompt", "This model does not know this 'reasoning_effort'.")
    return _EFFORTS[effort]


def _described(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    return {
        "name": function["name"],
        "description": function.get("description") or "",
        "parameters": function.get("parameters") or None,
    }


def _library() -> Any:
    """Return the library. Raises `ModelError` where it is not installed."""
    try:
        return importlib.import_module("openai_harmony")
    except ImportError as error:
        raise ModelError(
            "server_error", "To render for gpt-oss, install the package 'openai-harmony'."
        ) from error


@contextmanager
def _vocabulary(files: Files) -> Iterator[None]:
    """Put the vocabulary where the library looks for it, unless the operator has. Raises `ModelError`."""
    if _BASE in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, _FILE).write_bytes(_ranks(files))
        os.environ[_BASE] = folder
        try:
            yield
        finally:
            del os.environ[_BASE]


def _ranks(files: Files) -> bytes:
    """Return a vocabulary in the form that the library reads. Raises `ModelError`."""
    try:
        parsed = orjson.loads(files["tokenizer.json"])
        writing, words = writing_of(parsed), parsed["model"]["vocab"]
        ranks = sorted((rank, writing(word)) for word, rank in words.items())
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(
            "server_error", "gpt-oss comes without a readable tokenizer.json."
        ) from error
    return b"".join(b"%b %d\n" % (base64.b64encode(word), rank) for rank, word in ranks)
