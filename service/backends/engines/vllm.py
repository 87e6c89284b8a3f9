"""vLLM's gRPC."""

from collections.abc import Mapping
from typing import Any, ClassVar

from smg_grpc_proto.generated import vllm_engine_pb2 as pb  # type: ignore[import-untyped]

from service.backends import Capabilities
from service.backends.engines import Event, Likely, Model, Request, Score
from service.backends.engines.sampling import defaults_of, fill
from service.backends.engines.wires import event_of

NAMES = {
    name: name
    for name in (
        *("frequency_penalty", "ignore_eos", "logit_bias", "min_p", "min_tokens"),
        *("presence_penalty", "repetition_penalty", "seed", "temperature", "top_k", "top_p"),
    )
}
"""Parameters by the names that the protocol of vLLM has for them."""


class Vllm:
    """The messages of `vllm.grpc.engine.VllmEngine`.

    Ids come as they are sampled; the last message repeats the last of them.
    """

    kind: ClassVar[str] = "vllm"
    service: ClassVar[str] = "vllm.grpc.engine.VllmEngine"
    capabilities: ClassVar[Capabilities] = Capabilities(
        tokens_in="completion", tokens_out=True, parses=False, abort="call"
    )

    def __init__(self) -> None:
        self._defaults: Mapping[str, Any] = {}

    def model(self, data: bytes) -> Model:
        """Read what the engine says about its model; keep what it leaves to its callers to set."""
        told = pb.GetModelInfoResponse.FromString(data)
        self._defaults = defaults_of(told.default_sampling_params_json)
        return Model(
            name=told.served_model_name or told.model_path, context=told.max_context_length
        )

    def healthy(self, data: bytes) -> bool:
        """Read whether the engine is well."""
        return bool(pb.HealthCheckResponse.FromString(data).healthy)

    def request(self, identity: str, request: Request) -> bytes:
        """Return a request without its prompt. Raises `ModelError`."""
        params = pb.SamplingParams(
            n=1, max_tokens=request.most, stop_token_ids=request.ends, logprobs=request.likeliest
        )
        fill(params, {**self._defaults, **request.parameters}, NAMES)
        if request.constraint:
            setattr(params, request.constraint.kind, request.constraint.text)
            params.grammar_from_first_token = request.constraint.kind == "structural_tag"
        whole = pb.GenerateRequest(request_id=identity, sampling_params=params, stream=True)
        return bytes(whole.SerializeToString())

    def event(self, data: bytes) -> Event:
        """Read one message of an answer. Raises `ModelError` if the engine gave up."""
        return event_of(pb.GenerateResponse.FromString(data), scores)

    def abort(self, identity: str) -> bytes:
        """Return the request to stop."""
        return bytes(pb.AbortRequest(request_ids=[identity]).SerializeToString())


def scores(chunk: Any) -> list[Score]:
    """Return the scores of tokens, in the form that the protocols of vLLM and SGLang share."""
    told = chunk.output_logprobs
    likeliest = [
        list(map(Likely, place.token_ids, place.values)) for place in told.top_logprobs
    ] or [[]] * len(told.token_logprobs)
    return list(map(Score, told.token_logprobs, likeliest))
