"""The two routes on which vLLM's HTTP takes token ids."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from service.backends.engines import Likely, Request, Score
from service.backends.hints import salt, session

_STRUCTURED = {"json_schema": "json", "structural_tag": "structural_tag"}


class Route(Protocol):
    """A way to have ids completed."""

    path: str
    ids: str
    """What the prompt is called."""

    def body(self, request: Request) -> dict[str, Any]:
        """Return a request without its prompt."""

    def scores(self, told: Mapping[str, Any]) -> list[Score]:
        """Read how likely tokens were. Raises `LookupError`, `TypeError`, `ValueError`."""


class Generate:
    """vLLM's own: ids alone come back, and nothing is detokenised for them."""

    path = "/inference/v1/generate"
    ids = "token_ids"

    def body(self, request: Request) -> dict[str, Any]:
        """Return a request without its prompt."""
        parameters = {**_parameters(request), "detokenize": False}
        bound = request.constraint is not None and request.constraint.kind == "structural_tag"
        return {
            **_envelope(request),
            "output_mode": "tokens",
            "sampling_params": parameters,
            **({"reasoning_ended": True} if bound else {}),
        }

    def scores(self, told: Mapping[str, Any]) -> list[Score]:
        """Read how likely tokens were. Raises `LookupError`, `TypeError`, `ValueError`."""
        return [
            Score(
                token["logprob"],
                [Likely(top["token_id"], top["logprob"]) for top in token["top_logprobs"]],
            )
            for token in told.get("content") or ()
        ]


class Completions:
    """Plain completions, which are there in any case; ids come beside a text that nobody reads."""

    path = "/v1/completions"
    ids = "prompt"

    def body(self, request: Request) -> dict[str, Any]:
        """Return a request without its prompt."""
        asked = {
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "session_id": session(request.conversation),
        }
        return {**_envelope(request), **_parameters(request), **asked}

    def scores(self, told: Mapping[str, Any]) -> list[Score]:
        """Read how likely tokens were. Raises `LookupError`, `TypeError`, `ValueError`."""
        logprobs, tops = told.get("token_logprobs") or (), told.get("top_logprobs") or ()
        return [
            Score(logprob, list(_likeliest(top or {})))
            for logprob, top in zip(logprobs, tops, strict=True)
        ]


def _likeliest(told: Mapping[str, float]) -> Iterator[Likely]:
    """Read tokens that are named by their ids, as `token_id:7`."""
    for name, logprob in told.items():
        yield Likely(int(name.partition(":")[2]), logprob)


def _envelope(request: Request) -> dict[str, Any]:
    return {
        "model": request.model,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_salt": salt(request.tenant),
    }


def _parameters(request: Request) -> dict[str, Any]:
    parameters = {
        **request.parameters,
        "max_tokens": request.most,
        "stop_token_ids": list(request.ends),
    }
    if request.likeliest is not None:
        parameters["logprobs"] = request.likeliest
    if bound := request.constraint:
        parameters["structured_outputs"] = {_STRUCTURED[bound.kind]: bound.text}
    return parameters
