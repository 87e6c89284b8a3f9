"""TensorRT-LLM's gRPC."""

from typing import Any, ClassVar

from smg_grpc_proto.generated import trtllm_service_pb2 as pb  # type: ignore[import-untyped]

from service.backends import Capabilities
from service.backends.engines import Event, Likely, Model, Request, Score
from service.backends.engines.sampling import fill
from service.backends.engines.wires import event_of
from service.backends.hints import salt_number

_NAMES = {
    name: name
    for name in (
        *("frequency_penalty", "min_p", "min_tokens", "presence_penalty"),
        *("repetition_penalty", "seed", "temperature", "top_k", "top_p"),
    )
}
_GUIDES = {
    "json_schema": pb.GuidedDecodingParams.GUIDE_TYPE_JSON_SCHEMA,
    "structural_tag": pb.GuidedDecodingParams.GUIDE_TYPE_STRUCTURAL_TAG,
}


class TensorRtLlm:
    """The messages of `trtllm.TrtllmService`. It is the one gRPC that knows a salt."""

    kind: ClassVar[str] = "tensorrt-llm"
    service: ClassVar[str] = "trtllm.TrtllmService"
    capabilities: ClassVar[Capabilities] = Capabilities(
        tokens_in="completion", tokens_out=True, parses=False, hint="salt", abort="call"
    )

    def model(self, data: bytes) -> Model:
        """Read what the engine says about its model."""
        told = pb.GetModelInfoResponse.FromString(data)
        return Model(name=told.model_id, context=told.max_seq_len)

    def healthy(self, data: bytes) -> bool:
        """Read whether the engine is well."""
        return bool(pb.HealthCheckResponse.FromString(data).status == "OK")

    def request(self, identity: str, request: Request) -> bytes:
        """Return a request without its prompt. Raises `ModelError`."""
        sampling = pb.SamplingConfig(beam_width=1, num_return_sequences=1)
        fill(sampling, request.parameters, _NAMES)
        whole = pb.GenerateRequest(
            request_id=identity,
            sampling_config=sampling,
            output_config=pb.OutputConfig(
                logprobs=request.likeliest, exclude_input_from_output=True
            ),
            max_tokens=request.most,
            streaming=True,
            stop_token_ids=request.ends,
            ignore_eos=bool(request.parameters.get("ignore_eos")),
            include_stop_token_in_output=True,
            cache_salt_id=salt_number(request.tenant),
            guided_decoding=_guide(request),
        )
        return bytes(whole.SerializeToString())

    def event(self, data: bytes) -> Event:
        """Read one message of an answer. Raises `ModelError` if the engine gave up."""
        return event_of(pb.GenerateResponse.FromString(data), _scores)

    def abort(self, identity: str) -> bytes:
        """Return the request to stop."""
        return bytes(pb.AbortRequest(request_id=identity).SerializeToString())


def _guide(request: Request) -> Any:
    if request.constraint is None:
        return None
    guide = request.constraint
    return pb.GuidedDecodingParams(guide_type=_GUIDES[guide.kind], guide=guide.text)


def _scores(chunk: Any) -> list[Score]:
    return list(map(_score, chunk.logprobs))


def _score(told: Any) -> Score:
    return Score(told.logprob, [Likely(top.token_id, top.logprob) for top in told.top_logprobs])
