"""Token ids as they stand in protobuf requests.

A part of a prompt is a serialised message that holds nothing but ids. Protobuf merges serialisations
that follow one another, so parts are joined as bytes and put into a request that is written around them.
All engines number these fields alike, which a test proves.
"""

from collections.abc import Iterable, Sequence

from smg_grpc_proto.generated.vllm_engine_pb2 import (  # type: ignore[import-untyped]
    GenerateRequest,
    TokenizedInput,
)

_PROMPT = GenerateRequest.TOKENIZED_FIELD_NUMBER
_LENGTH_DELIMITED = 2  # protobuf's wire type of messages
_LOW = 0x7F


class Packed:
    """For gRPC: the ids as serialised messages, one behind the other."""

    name = "packed"

    def encode(self, ids: Sequence[int]) -> bytes:
        """Return ids as a serialised message."""
        return TokenizedInput(input_ids=ids).SerializeToString()  # type: ignore[no-any-return]

    def decode(self, data: bytes) -> list[int]:
        """Return the ids of all messages."""
        return list(TokenizedInput.FromString(data).input_ids)

    def join(self, parts: Iterable[bytes]) -> bytes:
        """Return one message behind the other."""
        return b"".join(parts)


def spliced(rest: bytes, prompt: Sequence[bytes]) -> bytes:
    """Return a request: serialised without its prompt, and the prompt's parts."""
    length = sum(map(len, prompt))
    tag = bytes([_PROMPT << 3 | _LENGTH_DELIMITED])
    return b"".join([rest, tag, _varint(length), *prompt])


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > _LOW:
        digits.append(number & _LOW | _LOW + 1)
        number >>= 7
    digits.append(number)
    return bytes(digits)
