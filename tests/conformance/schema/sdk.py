"""The events as the `openai` package types them, checked: the package itself takes whatever comes."""

from collections.abc import Mapping
from typing import Any, get_args

from openai.types.responses import ResponsesServerEvent
from openai.types.responses.response import Response
from pydantic import BaseModel


def _models() -> Mapping[str, type[BaseModel]]:
    union, *_ = get_args(ResponsesServerEvent)
    typed = [(model, model.model_fields["type"].annotation) for model in get_args(union)]
    return {word: model for model, words in typed for word in get_args(words)}


MODELS = _models()
"""The package's class for each type of event it knows."""


def check_event(event: Mapping[str, Any]) -> None:
    """Raise pydantic's `ValidationError` unless the event is what the package says it is."""
    MODELS[event["type"]].model_validate(event, strict=True)


def check_response(response: Mapping[str, Any]) -> None:
    """Raise pydantic's `ValidationError` unless the response is what the package says it is."""
    Response.model_validate(response, strict=True)
