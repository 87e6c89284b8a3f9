"""What clients say in a run: canaries in every place that holds text, and all that can go wrong."""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from tests.canaries.canary import Canaries

FLAGGED = "detonator"
"""A word that the classifier of a run flags."""
BREAKS = "compaction, break"
"""Words at which the compactor of a run breaks, quoting what it was given."""
_TRIGGER = {"type": "compaction_trigger"}


def frame(members: Mapping[str, Any], kind: str = "response.create") -> str:
    """Return an event as a client writes it."""
    return json.dumps({"type": kind, **members})


class Said(NamedTuple):
    """A request, and how its response is to end."""

    name: str
    members: dict[str, Any]
    ends: str
    """The kind of the last event."""


class Speech:
    """Makes what a client says, each with canaries of its own."""

    def __init__(self, canaries: Canaries, where: str, *, model: str, stored: bool) -> None:
        """`where` is told of all canaries: the transport, and whether it is to be stored."""
        self.canaries = canaries
        self.stored = stored
        self.model = model
        self._where = where

    def word(self, place: str) -> str:
        """Return a canary of letters and digits."""
        return self.canaries.word(f"{place}, {self._where}")

    def text(self, place: str) -> str:
        """Return a canary amid what is escaped."""
        return self.canaries.text(f"{place}, {self._where}")

    def create(self, text: str = "", **members: Any) -> dict[str, Any]:
        """Return a create that asks for an answer to a text; canaries are everywhere else."""
        return {
            "model": self.model,
            "store": self.stored,
            "max_output_tokens": 200,
            "input": self._input(text),
            "instructions": self.text("instructions"),
            "tools": list(self._tools()),
            "metadata": {self.word("key of metadata"): self.word("metadata")},
            "client_metadata": {self.word("key of client_metadata"): self.text("client_metadata")},
            "prompt_cache_key": self.word("prompt_cache_key"),
            "user": self.word("user"),
            "safety_identifier": self.word("safety_identifier"),
            self.word("name of an unknown member"): {"a": [self.text("unknown member")]},
            **members,
        }

    def _input(self, text: str) -> list[dict[str, Any]]:
        """Return items that all models can read; the last one is the text, or a canary."""
        call = self.word("call_id")
        return [
            {"role": "assistant", "content": self.text("what an assistant said")},
            {"role": "user", "content": [{"type": "input_text", "text": self.text("input_text")}]},
            {
                "type": "function_call",
                "call_id": call,
                "name": "f",
                "arguments": self._json("arguments"),
            },
            {
                "type": "function_call_output",
                "call_id": call,
                "output": self.text("output of a tool"),
            },
            {"role": "user", "content": text or self.text("the last text")},
        ]

    def _rare(self) -> list[dict[str, Any]]:
        """Return items that few models can read, or none."""
        image = f"https://{self.word('host of an image')}.example/{self.word('image_url')}"
        data = base64.b64encode(self.text("file_data").encode()).decode()
        return [
            {"type": self.word("type of an item"), "it": self.text("unknown item")},
            {
                "role": "user",
                "content": [
                    {"type": "input_image", "image_url": image, "detail": "low"},
                    {"type": "input_file", "file_data": data, "filename": self.word("filename")},
                    {"type": self.word("type of a part"), "it": self.text("unknown part")},
                ],
            },
        ]

    def _tools(self) -> Iterator[dict[str, Any]]:
        schema = {
            "type": "object",
            "properties": {
                self.word("property"): {"type": "string", "description": self.text("schema")}
            },
        }
        yield {
            "type": "function",
            "name": self.word("name of a function"),
            "description": self.text("description of a function"),
            "parameters": schema,
        }
        yield {
            "type": "custom",
            "name": self.word("name of a custom tool"),
            "description": self.text("description of a custom tool"),
        }

    def turns(self) -> Iterator[Said]:
        """Yield turns that end in all the ways there are."""
        yield Said("completed", self.create(), "completed")
        yield Said(
            "of all kinds", self.create(input=[*self._rare(), *self._input("")]), "completed"
        )
        yield from self._told_to()
        yield from self._screened()
        yield from self._compacted()

    def _told_to(self) -> Iterator[Said]:
        """Yield turns in which the model does as it is told."""
        for name, directive, ends in (
            ("refused", f"refuse {self.word('refusal')}", "completed"),
            (
                "a call",
                f"call {self.word('called')} {self._json('generated arguments')}",
                "completed",
            ),
            (
                "a custom call",
                f"custom {self.word('called')} {self.word('its input')}",
                "completed",
            ),
            ("thought", "reasoning 3 ; text 3", "completed"),
            ("cut short", "text 5 ; length", "incomplete"),
            ("failed", "fail server_error after 2 words", "failed"),
            ("failed in the client's words", f"fail {self.word('code of a failure')}", "failed"),
            ("nonsense", f"{self.word('directive')}", "failed"),
        ):
            include = ["reasoning.encrypted_content"]
            said = self.create(f"#sim {directive}", include=include)
            del said["max_output_tokens"]
            yield Said(name, said, ends)

    def _screened(self) -> Iterator[Said]:
        policy = {"input": {"mode": "block"}, "output": {"mode": "score"}}
        said = self.create(f"{FLAGGED} {self.text('flagged input')}")
        said["moderation"] = {"model": "omni-moderation-latest", "policy": policy}
        yield Said("flagged", said, "incomplete")

    def _compacted(self) -> Iterator[Said]:
        whole = self.create(self.text("compacted"))
        whole["input"].append(_TRIGGER)
        yield Said("compacted", whole, "completed")
        broken = self.create(f"{BREAKS} {self.text('compaction that breaks')}")
        broken["input"].append(_TRIGGER)
        yield Said("compaction broke", broken, "failed")

    def refused(self) -> Iterator[dict[str, Any]]:
        """Yield creates that are refused, each for what stands in it."""
        asked = self.create()
        word = self.word
        for members in (
            {"model": word("model")},
            {"previous_response_id": f"resp_{word('previous_response_id')}"},
            {"previous_response_id": self.text("previous_response_id")},
            {"conversation": f"conv_{word('conversation')}"},
            {"conversation": {"id": word("conversation")}},
            {"input": [{"type": "item_reference", "id": word("item_reference")}]},
            {"input": [{"type": "compaction", "encrypted_content": word("encrypted_content")}]},
            {"input": [{"role": word("role"), "content": "x"}]},
            {"input": [{"type": "message", "content": {word("content"): 1}}]},
            {"input": [self._orphan()]},
            {"tool_choice": word("tool_choice")},
            {"tool_choice": {"type": "function", "name": word("forced function")}},
            {"truncation": word("truncation")},
            {"temperature": word("temperature")},
            {"max_output_tokens": word("max_output_tokens")},
            {"metadata": {word("long metadata"): word("long metadata") * 100}},
            {"metadata": word("metadata that is none")},
            {"service_tier": word("service_tier"), "model": word("model")},
            {"include": [word("include")], "temperature": 99},
            {"text": {"format": {"type": word("format")}}},
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": word("schema"),
                        "schema": word("schema"),
                    }
                }
            },
            {"moderation": {"model": word("classifier")}},
            {"tools": [{"type": "function", "name": self.text("name of a function")}] * 2},
            {"tools": [{"type": word("type of a tool")}], "tool_choice": word("tool_choice")},
            {"reasoning": {"effort": word("effort"), "summary": {word("summary"): 1}}},
            {"context_management": [{"type": word("context_management")}]},
            {"idempotency_key": word("idempotency_key") * 30},
            {"store": word("store")},
            {"prompt": {"id": word("prompt")}},
            {"input": {word("input"): word("input")}},
            {"stream_id": self.text("stream_id")},
        ):
            yield {**asked, **members}

    def broken_frames(self) -> Iterator[bytes | str]:
        """Yield what is no event, or none that can be: not JSON, not UTF-8, unknown, too deep."""
        word = self.word("a frame")
        yield f'{{"type": "response.create", "model": "{word}"'.encode()
        yield f'{{"type": "response.create", "{word}": 1, "{word}": 2}}'.encode()
        yield b'{"type": "response.create", "input": "' + word.encode() + b'\xff\xfe"}'
        yield f'{{"type": "response.create", "input": "{word}\\ud800"}}'.encode()
        yield f'{{"type": "{word}", "{word}": "{word}"}}'.encode()
        yield f'["{word}"]'.encode()
        yield f'"{word}"'.encode()
        yield word.encode()
        yield (f'{{"{word}":' * 2000 + "1" + "}" * 2000).encode()
        yield f'{{"type": "response.create", "temperature": 1{word}}}'.encode()
        named = self.word("response_id")
        yield frame(
            {"previous_response_id": named, "input": self.word("steering")}, "response.steer"
        )
        yield frame({"response_id": named, "mode": self.word("mode")}, "response.interrupt")
        yield frame({"response_id": named}, "response.resume")

    def _orphan(self) -> dict[str, Any]:
        output = self.text("output without a call")
        return {"type": "function_call_output", "call_id": self.word("call_id"), "output": output}

    def _json(self, place: str) -> str:
        return json.dumps({self.word(place): self.text(place)})
