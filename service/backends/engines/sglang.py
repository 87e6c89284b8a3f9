"""SGLang's gRPC."""

from collections.abc import Mapping
from typing import Any, ClassVar

from smg_grpc_proto.generated import sglang_scheduler_pb2 as pb  # type: ignore[import-untyped]

from service.backends import Capabilities
from service.backends.engines import Event, Model, Request
from service.backends.engines.sampling import defaults_of, fill
from service.backends.engines.vllm import NAMES as VLLM_NAMES
from service.backends.engines.vllm import scores
from service.backends.engines.wires import event_of

_NAMES = {**VLLM_NAMES, "min_tokens": "min_new_tokens"}
del _NAMES["seed"]  # the protocol has none

_NEUTRAL = {"temperature": 1.0}
"""What is not set would be 0, which is another way to sample."""


class Sglang:
    """The messages of `sglang.grpc.scheduler.SglangScheduler`. Ids come as they are sampled."""

    kind: ClassVar[str] = "sglang"
    service: ClassVar[str] = "sglang.grpc.scheduler.SglangScheduler"
    capabilities: ClassVar[Capabilities] = Capabilities(
        tokens_in="completion", tokens_out=True, parses=False, abort="call"
    )

    def __init__(self) -> None:
        self._defaults: Mapping[str, Any] = _NEUTRAL

    def model(self, data: bytes) -> Model:
        """Read what the engine says about its model; keep what it leaves to its callers to set."""
        told = pb.GetModelInfoResponse.FromString(data)
        self._defaults = {**_NEUTRAL, **defaults_of(told.default_sampling_params_json)}
        return Model(
            name=told.served_model_name or told.model_path, context=told.max_context_length
        )

    def healthy(self, data: bytes) -> bool:
        """Read whether the engine is well."""
        return bool(pb.HealthCheckResponse.FromString(data).healthy)

    def request(self, identity: str, request: Request) -> bytes:
        """Return a request without its prompt. Raises `ModelError`."""
        params = pb.SamplingParams(n=1, max_new_tokens=request.most, stop_token_ids=request.ends)
        fill(params, {**self._defaults, **request.parameters}, _NAMES)
        if request.constraint:
            setattr(params, request.constraint.kind, request.constraint.text)
        whole = pb.GenerateRequest(
            request_id=identity,
            sampling_params=params,
            stream=True,
            return_logprob=request.likeliest is not None,
            top_logprobs_num=request.likeliest or 0,
            logprob_start_len=-1,
        )
        return bytes(whole.SerializeToString())

    def event(self, data: bytes) -> Event:
        """Read one message of an answer. Raises `ModelError` if the engine gave up."""
        return event_of(pb.GenerateResponse.FromString(data), scores)

    def abort(self, identity: str) -> bytes:
        """Return the request to stop."""
        return bytes(pb.AbortRequest(request_id=identity).SerializeToString())
