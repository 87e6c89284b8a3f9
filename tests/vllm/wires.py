"""Token ids as they go over the wire, read from what a tap has heard."""

import re
from collections.abc import Iterator
from typing import Protocol

from smg_grpc_proto.generated.vllm_engine_pb2 import (  # type: ignore[import-untyped]
    GenerateRequest,
    GenerateResponse,
)

_PROMPT = re.compile(rb'"(?:prompt_)?token_ids": ?\[([\d, ]+)\]')
_SAMPLED = re.compile(rb'"token_ids": ?\[([\d, ]+)\]')
_ANSWER = b"HTTP/1.1 200"

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_HEAD = 9  # bytes: length, type, flags, stream
_DATA = 0
_MESSAGE_HEAD = 5  # bytes: whether it is compressed, length


class Wire(Protocol):
    """One way to send prompts as ids, and to get ids back."""

    def prompt(self, sent: bytes) -> list[int]:
        """Return the prompt that was sent last."""

    def sampled(self, answered: bytes) -> list[int]:
        """Return the ids of the last answer."""


class Json:
    """HTTP/1.1 with ids in JSON."""

    def prompt(self, sent: bytes) -> list[int]:
        """Return the prompt that was sent last."""
        return _ids(_PROMPT.findall(sent)[-1])

    def sampled(self, answered: bytes) -> list[int]:
        """Return the ids of the last answer."""
        last = answered[answered.rindex(_ANSWER) :]
        return [token for found in _SAMPLED.findall(last) for token in _ids(found)]


class Grpc:
    """HTTP/2 with ids in protobuf, both of which are on one connection."""

    def prompt(self, sent: bytes) -> list[int]:
        """Return the prompt that was sent last."""
        (message,) = _messages(sent.removeprefix(_PREFACE))
        return list(GenerateRequest.FromString(message).tokenized.input_ids)

    def sampled(self, answered: bytes) -> list[int]:
        """Return the ids of the last answer; its last message repeats what came before."""
        answers = map(GenerateResponse.FromString, _messages(answered))
        return [token for answer in answers for token in answer.chunk.token_ids]


def _ids(text: bytes) -> list[int]:
    return [int(token) for token in text.split(b",")]


def _messages(data: bytes) -> Iterator[bytes]:
    """Yield the messages of the last stream."""
    streams: dict[int, bytearray] = {}
    for kind, stream, payload in _frames(data):
        if kind == _DATA:
            streams.setdefault(stream, bytearray()).extend(payload)
    last = bytes(streams[max(streams)])
    while last:
        end = _MESSAGE_HEAD + int.from_bytes(last[1:_MESSAGE_HEAD])
        yield last[_MESSAGE_HEAD:end]
        last = last[end:]


def _frames(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    while len(data) >= _FRAME_HEAD:
        end = _FRAME_HEAD + int.from_bytes(data[:3])
        yield data[3], int.from_bytes(data[5:_FRAME_HEAD]), data[_FRAME_HEAD:end]
        data = data[end:]
