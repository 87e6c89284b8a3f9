"""What engines say and are told, where no stand-in has a real model for it."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from smg_grpc_proto.generated import (  # type: ignore[import-untyped]
    sglang_scheduler_pb2,
    trtllm_service_pb2,
    vllm_engine_pb2,
)

from service.backends.engines import Constraint, Ended, Likely, Request, Sampled, Score
from service.backends.engines.sglang import Sglang
from service.backends.engines.trtllm import TensorRtLlm
from service.backends.engines.vllm import Vllm
from service.backends.engines.wires import Wire
from service.backends.hints import salt_number
from service.errors import ModelError, Unavailable

TRT = trtllm_service_pb2
WIRES: list[tuple[Callable[[], Wire], Any]] = [
    (Vllm, vllm_engine_pb2),
    (Sglang, sglang_scheduler_pb2),
    (TensorRtLlm, TRT),
]


def request(**fields: Any) -> Request:
    defaults: dict[str, Any] = {"prompt": [], "model": "m", "most": 7, "ends": [5]}
    return Request(**defaults | fields, tenant="t", conversation="c")


def test_tensorrt_llm_is_told_all_that_it_takes_for_granted_otherwise() -> None:
    asked = request(
        parameters={"temperature": 0.5, "top_k": 3, "logit_bias": {"1": 1}, "ignore_eos": True},
        constraint=Constraint("structural_tag", "{}"),
        likeliest=0,
    )
    told = TRT.GenerateRequest.FromString(TensorRtLlm().request("id", asked))
    assert (told.request_id, told.max_tokens, told.streaming) == ("id", 7, True)
    assert (told.sampling_config.beam_width, told.sampling_config.num_return_sequences) == (1, 1)
    assert (told.sampling_config.temperature, told.sampling_config.top_k) == (0.5, 3)
    assert not told.sampling_config.HasField("top_p")
    assert told.guided_decoding.guide_type == TRT.GuidedDecodingParams.GUIDE_TYPE_STRUCTURAL_TAG
    assert told.output_config.HasField("logprobs")
    assert told.cache_salt_id == salt_number("t")
    assert told.ignore_eos


def test_tensorrt_llm_tells_ids_with_scores() -> None:
    top = TRT.TopLogprob(token_id=4, logprob=-1.5)
    score = TRT.TokenLogprob(token_id=9, logprob=-2.5, top_logprobs=[top])
    chunk = TRT.GenerateStreamChunk(token_ids=[9], cached_tokens=6, logprobs=[score])
    event = TensorRtLlm().event(TRT.GenerateResponse(chunk=chunk).SerializeToString())
    assert isinstance(event, Sampled)
    assert (list(event.ids), event.cached_tokens) == ([9], 6)
    assert event.scores == [Score(-2.5, [Likely(4, -1.5)])]


@pytest.mark.parametrize(("wire", "pb"), WIRES)
@pytest.mark.parametrize(("reason", "by_length"), [("stop", False), ("length", True)])
def test_the_last_message_says_why_and_its_ids_are_old(
    wire: Callable[[], Wire], pb: Any, reason: str, by_length: bool
) -> None:
    told = pb.GenerateComplete(finish_reason=reason, cached_tokens=3)
    event = wire().event(pb.GenerateResponse(complete=told).SerializeToString())
    assert event == Ended(by_length, cached_tokens=3)


@pytest.mark.parametrize(("wire", "pb"), WIRES)
@pytest.mark.parametrize(
    ("reason", "kind"), [("abort", Unavailable), ("error", ModelError), ("new", ModelError)]
)
def test_an_answer_that_came_to_nothing_is_none(
    wire: Callable[[], Wire], pb: Any, reason: str, kind: type[ModelError]
) -> None:
    told = pb.GenerateResponse(complete=pb.GenerateComplete(finish_reason=reason))
    with pytest.raises(ModelError) as caught:
        wire().event(told.SerializeToString())
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("wire", "pb", "info"),
    [
        (Vllm, vllm_engine_pb2, {"served_model_name": "m", "max_context_length": 9}),
        (Vllm, vllm_engine_pb2, {"model_path": "m", "max_context_length": 9}),
        (Sglang, sglang_scheduler_pb2, {"served_model_name": "m", "max_context_length": 9}),
        (TensorRtLlm, TRT, {"model_id": "m", "max_seq_len": 9}),
    ],
)
def test_an_engine_says_what_it_has_loaded(
    wire: Callable[[], Wire], pb: Any, info: dict[str, Any]
) -> None:
    model = wire().model(pb.GetModelInfoResponse(**info).SerializeToString())
    assert (model.name, model.context) == ("m", 9)


@pytest.mark.parametrize(
    ("wire", "told"),
    [
        (Vllm, vllm_engine_pb2.HealthCheckResponse(healthy=True)),
        (Sglang, sglang_scheduler_pb2.HealthCheckResponse(healthy=True)),
        (TensorRtLlm, TRT.HealthCheckResponse(status="OK")),
    ],
)
def test_health_is_read(wire: Callable[[], Wire], told: Message) -> None:
    assert wire().healthy(told.SerializeToString())
    assert not wire().healthy(b"")


def test_a_model_s_own_parameters_are_set_for_engines_that_leave_them_to_callers() -> None:
    info = {"default_sampling_params_json": '{"temperature": 0.5, "top_k": 20}'}
    for wire, pb in ((Vllm(), vllm_engine_pb2), (Sglang(), sglang_scheduler_pb2)):
        wire.model(pb.GetModelInfoResponse(**info).SerializeToString())
        told = pb.GenerateRequest.FromString(wire.request("id", request(parameters={"top_k": 1})))
        assert (told.sampling_params.temperature, told.sampling_params.top_k) == (0.5, 1)


def test_without_a_temperature_sglang_would_sample_in_another_way() -> None:
    told = sglang_scheduler_pb2.GenerateRequest.FromString(Sglang().request("id", request()))
    assert told.sampling_params.temperature == 1
    assert told.sampling_params.n == 1
