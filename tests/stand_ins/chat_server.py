"""Stand-ins for vLLM, SGLang and TensorRT-LLM: their chat completions around a real, tiny model.

They take and tell what those servers do, in the same shapes; llama.cpp generates, so that ids go in and
come out that a model has read and sampled. What they are asked for is kept.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import httpx

from service.rendering import Cycle, Opening, Piece
from service.rendering.chat_ml import ChatMl
from tests.models import IM_END, IM_START

Chunk: TypeAlias = dict[str, Any]
TEMPLATE = ChatMl(opens=[], start=IM_START, end=IM_END, ends=frozenset({IM_END}))
MODEL, CONTEXT = "tiny", 4096


def ids_of(pieces: Sequence[Piece]) -> list[int]:
    """Tokenise: the tiny model's vocabulary is bytes."""
    texts = ([piece] if isinstance(piece, int) else piece.encode() for piece in pieces)
    return [token for text in texts for token in text]


@dataclass(frozen=True)
class Speech:
    """How one kind of server takes ids, and tells them."""

    name: str
    ids: Callable[[Chunk], list[int] | None]
    """The ids for a prompt that a request carries, if the server looks for them there."""
    wants: Callable[[Chunk], bool]
    """Whether a request asks for the sampled ids."""
    knows: frozenset[str] | None = None
    """The members of a request that it does not refuse; None where it ignores those unknown."""
    spells: str | None = None
    """The member of an answer in which it tells what ids spell, if it can be asked."""


def _transferred(body: Chunk) -> list[int] | None:
    return (body.get("kv_transfer_params") or {}).get("prompt_token_ids")


VLLM = Speech(
    "vllm", _transferred, lambda body: bool(body.get("return_token_ids")), spells="prompt"
)
VLLM_TO_COME = Speech(
    "vllm",
    lambda body: body.get("prompt_token_ids"),
    lambda body: bool(body.get("return_token_ids")),
)
VLLM_OLD = Speech("vllm", lambda _: None, lambda _: False)
SGLANG = Speech(
    "sglang",
    lambda body: body.get("input_ids"),
    lambda body: bool(body.get("return_output_ids_in_sglext")),
    spells="text",
)
TRTLLM = Speech(
    "trtllm",
    lambda body: body.get("prompt_token_ids"),
    lambda _: False,
    frozenset(
        {
            *("cache_salt", "frequency_penalty", "ignore_eos", "max_tokens", "messages", "model"),
            *("presence_penalty", "prompt_token_ids", "response_format", "seed", "stop", "stream"),
            *("stream_options", "temperature", "tool_choice", "tools", "top_k", "top_p"),
        }
    ),
)


@dataclass
class Canned:
    """What is answered in place of a completion."""

    content: bytes
    status: int = 200
    go_on: asyncio.Event | None = None
    """Waited for before the answer ends."""


@dataclass
class _Answer:
    """A completion on its way."""

    body: Chunk
    prompt: list[int]
    sampled: list[int] = field(default_factory=list)
    text: str = ""
    cached: int = 0
    reason: str = "stop"

    @property
    def forced(self) -> Mapping[str, Any] | None:
        """The function that must be called."""
        choice = self.body.get("tool_choice")
        named = choice["function"]["name"] if isinstance(choice, dict) else None
        if choice != "required" and named is None:
            return None
        functions: list[Chunk] = [tool["function"] for tool in self.body["tools"]]
        return next(f for f in functions if named in {None, f["name"]})

    @property
    def usage(self) -> Chunk:
        return {
            "prompt_tokens": len(self.prompt),
            "total_tokens": len(self.prompt) + len(self.sampled),
            "completion_tokens": len(self.sampled),
            "prompt_tokens_details": {"cached_tokens": self.cached, "created_cache_tokens": 0},
        }


class ChatServer:
    """One stand-in."""

    def __init__(self, speech: Speech, model: httpx.AsyncClient) -> None:
        self.url = ""
        self.asked: list[Chunk] = []
        """The bodies of all completions that were asked for."""
        self.heads: list[str] = []
        self.connections = 0
        self.open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.abandoned = asyncio.Event()
        """Set when a client leaves before an answer ends."""
        self.reads_backwards = 1
        """-1 for a server with another vocabulary."""
        self.canned: list[Canned] = []
        """Answered before the model is asked."""
        self._speech = speech
        self._model = model
        self._cached_for: str | None = None

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until the client leaves."""
        self.connections += 1
        task = asyncio.current_task()
        assert task
        self.open[task] = writer
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length:")[2].split("\r\n")[0] or 0)
                self.heads.append(head)
                await self._route(head, await reader.readexactly(length), reader, writer)
        writer.close()
        del self.open[task]

    async def _route(
        self, head: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        method, path, _ = head.split(" ", 2)
        if method == "POST" and path == "/v1/chat/completions":
            leaving = asyncio.ensure_future(self._left(reader))
            try:
                await self._complete(json.loads(body), writer)
            finally:
                leaving.cancel()
        elif method == "POST" and path == "/detokenize" and self._speech.spells:
            spelled = bytes(json.loads(body)["tokens"]).decode()
            await _answer(writer, 200, {self._speech.spells: spelled[:: self.reads_backwards]})
        elif path == "/v1/models":
            listed = {"id": MODEL, "object": "model", "max_model_len": CONTEXT}
            await _answer(writer, 200, {"object": "list", "data": [listed]})
        else:
            await _answer(writer, 200 if path == "/health" else 404, {})

    async def _left(self, reader: asyncio.StreamReader) -> None:
        """Notice a client that leaves; nobody sends anything while an answer is under way."""
        while not reader.at_eof() and reader.exception() is None:
            await asyncio.sleep(0.005)
        self.abandoned.set()

    async def _complete(self, body: Chunk, writer: asyncio.StreamWriter) -> None:
        self.asked.append(body)
        if self.canned:
            return await _play(self.canned.pop(0), writer)
        if unknown := set(body) - (self._speech.knows or set(body)):
            refusal = {"object": "error", "message": f"Extra inputs: {unknown}", "code": 400}
            return await _answer(writer, 400, refusal)
        ids = self._speech.ids(body)
        answer = _Answer(body, rendered(body) if ids is None else ids)
        if len(answer.prompt) >= CONTEXT:
            return await _answer(writer, 400, _too_long(len(answer.prompt)))
        if body.get("stream"):
            return await self._stream(answer, writer)
        async for _ in self._generated(answer):
            pass
        return await _answer(writer, 200, self._whole(answer))

    async def _stream(self, answer: _Answer, writer: asyncio.StreamWriter) -> None:
        writer.write(_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        async for chunk in self._chunks(answer):
            _send(writer, b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n")
            await writer.drain()
        _send(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _chunks(self, answer: _Answer) -> AsyncIterator[Chunk]:
        """Yield what the server says, in its shapes."""
        tells, vllm = self._speech.wants(answer.body), self._speech.name == "vllm"

        def chunk(delta: Chunk, tokens: Sequence[int], **ending: Any) -> Chunk:
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None, **ending}
            if vllm:
                choice["token_ids"] = list(tokens) if tells else None
            return _chunk(choice)

        yield self._first(answer)
        async for text, tokens in self._generated(answer):
            yield chunk({} if answer.forced else {"content": text}, tokens)
        for delta in _calls(answer):
            yield chunk(delta, ())
        reason = "tool_calls" if answer.forced and answer.reason == "stop" else answer.reason
        yield chunk({}, (), finish_reason=reason, **({"stop_reason": None} if vllm else {}))
        if tells and not vllm:
            yield {**_chunk(), "sglext": {"output_ids": [answer.sampled]}}
        fingerprint = {"system_fingerprint": "vllm-0"} if vllm else {}
        yield {**_chunk(), "usage": answer.usage, **fingerprint}

    def _first(self, answer: _Answer) -> Chunk:
        delta = {"role": "assistant", "content": ""}
        first = _chunk({"index": 0, "delta": delta, "logprobs": None, "finish_reason": None})
        if self._speech.name != "vllm":
            return first
        told = answer.prompt if self._speech.wants(answer.body) else None
        return {**first, "prompt_token_ids": told, "prompt_text": None}

    def _whole(self, answer: _Answer) -> Chunk:
        """Return an answer that is not streamed, with the prompt's ids where they are asked for."""
        message = {"role": "assistant", "content": answer.text}
        choice = {"index": 0, "message": message, "finish_reason": answer.reason}
        whole: Chunk = {"choices": [choice], "model": MODEL, "usage": answer.usage}
        if answer.body.get("return_token_ids") and self._speech.name == "vllm":
            whole["prompt_token_ids"] = answer.prompt
        if answer.body.get("return_input_ids_in_sglext") and self._speech.name == "sglang":
            whole["sglext"] = {"input_ids": answer.prompt}
        return whole

    async def _generated(self, answer: _Answer) -> AsyncIterator[tuple[str, list[int]]]:
        """Have llama.cpp generate; tenants share no cache where there is a salt."""
        asked = self._options(answer)
        async with self._model.stream("POST", "/completion", json=asked) as response:
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    event = json.loads(line[5:])
                    answer.sampled += event["tokens"]
                    answer.text += event["content"]
                    if event["tokens"]:
                        yield event["content"], event["tokens"]
                    if event["stop"]:
                        answer.cached = event["timings"]["cache_n"]
                        answer.reason = "length" if event["stop_type"] == "limit" else "stop"

    def _options(self, answer: _Answer) -> Chunk:
        body = answer.body
        before, self._cached_for = self._cached_for, body.get("cache_salt")
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 64
        options = {
            "prompt": answer.prompt,
            "n_predict": limit,
            "stream": True,
            "return_tokens": True,
            "cache_prompt": before == self._cached_for,
            "id_slot": 0,
            "temperature": body.get("temperature", 0),
            "stop": body.get("stop", []),
            "ignore_eos": body.get("ignore_eos", False),
        }
        if form := body.get("response_format"):
            options["json_schema"] = form["json_schema"]["schema"]
        if function := answer.forced:
            options["json_schema"] = _call_schema(function)
        return options


@asynccontextmanager
async def chat_server(speech: Speech, url: str, key: str) -> AsyncIterator[ChatServer]:
    """Run a stand-in in front of a llama.cpp server with the tiny model."""
    headers = {"Authorization": f"Bearer {key}"}
    none_kept = httpx.Limits(max_keepalive_connections=0)  # llama.cpp closes them as it likes
    async with httpx.AsyncClient(
        base_url=url, headers=headers, timeout=10, limits=none_kept, verify=False
    ) as model:
        stand_in = ChatServer(speech, model)
        server = await asyncio.start_server(stand_in.connected, "127.0.0.1", 0)
        stand_in.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield stand_in
        finally:
            server.close()
            for connection in stand_in.open:
                connection.cancel()
            await asyncio.gather(*stand_in.open)


def rendered(body: Chunk) -> list[int]:
    """Render messages as the server's own template does."""
    messages = [
        m if isinstance(m.get("content"), str) else {**m, "content": "<image>"}
        for m in body["messages"]
    ]
    opening = Opening([], body.get("tools", []), {})
    pieces = [*TEMPLATE.preamble(opening), *TEMPLATE.turn(messages, Cycle.OPEN)]
    return ids_of([*pieces, *TEMPLATE.answer_opens(opening)])


_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"


async def _answer(writer: asyncio.StreamWriter, status: int, body: Chunk) -> None:
    content = json.dumps(body).encode()
    writer.write(b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n" % (status, len(content)) + content)
    await writer.drain()


async def _play(canned: Canned, writer: asyncio.StreamWriter) -> None:
    head = _HEAD.replace(b"200 OK", b"%d -" % canned.status)
    writer.write(head + b"Transfer-Encoding: chunked\r\n\r\n")
    if canned.content:
        _send(writer, canned.content)
    await writer.drain()
    if canned.go_on:
        await canned.go_on.wait()
    writer.write(b"0\r\n\r\n")
    await writer.drain()


def _send(writer: asyncio.StreamWriter, piece: bytes) -> None:
    writer.write(b"%x\r\n" % len(piece) + piece + b"\r\n")


def _chunk(*choices: Chunk) -> Chunk:
    identity = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 1700000000}
    return {**identity, "model": MODEL, "choices": list(choices)}


def _too_long(tokens: int) -> Chunk:
    message = f"Input length ({tokens}) exceeds model's maximum context length ({CONTEXT})."
    return {"error": {"message": message, "type": "BadRequestError", "param": None, "code": 400}}


def _call_schema(function: Mapping[str, Any]) -> Chunk:
    properties = {"name": {"const": function["name"]}, "arguments": function["parameters"]}
    schema = {"type": "object", "properties": properties, "required": [*properties]}
    return {**schema, "additionalProperties": False}


def _calls(answer: _Answer) -> list[Chunk]:
    """Tell the call that was sampled, as servers do: its name, then its arguments in pieces."""
    if not answer.forced or answer.reason == "length":
        return []
    call = json.loads(answer.text)
    arguments = json.dumps(call["arguments"])
    half = len(arguments) // 2
    begins = {"id": "call-1", "type": "function", "index": 0, "function": {"name": call["name"]}}
    pieces = [
        {"index": 0, "function": {"arguments": a}} for a in (arguments[:half], arguments[half:])
    ]
    return [{"tool_calls": [piece]} for piece in (begins, *pieces)]
