import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st
from smg_grpc_proto.generated import (  # type: ignore[import-untyped]
    sglang_scheduler_pb2,
    trtllm_service_pb2,
    vllm_engine_pb2,
)

from service.backends.engines import Constraint, Request
from service.backends.engines.packed import Packed, spliced
from service.backends.engines.sglang import Sglang
from service.backends.engines.trtllm import TensorRtLlm
from service.backends.engines.vllm import Vllm
from service.backends.engines.wires import Wire
from service.conversation import Rendered

PACKED = Packed()
ids = st.lists(st.integers(0, 2**32 - 1), max_size=40)


def request(parts: list[list[int]]) -> Request:
    return Request(
        prompt=[Rendered(PACKED.encode(part), len(part)) for part in parts],
        model="m",
        most=7,
        ends=[5],
        tenant="t",
        conversation="c",
        parameters={"temperature": 0.5, "seed": 3, "top_k": 2, "logit_bias": {"9": -1.5}},
        constraint=Constraint("json_schema", '{"type": "object"}'),
        likeliest=2,
    )


@pytest.mark.parametrize(
    ("wire", "kind", "field"),
    [
        (Vllm(), vllm_engine_pb2.GenerateRequest, "input_ids"),
        (Sglang(), sglang_scheduler_pb2.GenerateRequest, "input_ids"),
        (TensorRtLlm(), trtllm_service_pb2.GenerateRequest, "input_token_ids"),
    ],
    ids=["vllm", "sglang", "trtllm"],
)
@given(parts=st.lists(ids, max_size=5))
def test_spliced_bytes_are_the_message_that_protobuf_would_have_written(
    wire: Wire, kind: type[Message], field: str, parts: list[list[int]]
) -> None:
    asked = request(parts)
    rest = wire.request("id", asked)
    whole = kind.FromString(rest)
    tokenized = whole.tokenized  # type: ignore[attr-defined]
    tokenized.SetInParent()
    getattr(tokenized, field).extend(token for part in parts for token in part)
    received = kind.FromString(spliced(rest, [part.data for part in asked.prompt]))
    assert received == whole


@given(parts=st.lists(ids, max_size=5))
def test_ids_joined_as_bytes_are_the_ids_joined(parts: list[list[int]]) -> None:
    joined = PACKED.join(map(PACKED.encode, parts))
    assert PACKED.decode(joined) == [token for part in parts for token in part]
