"""`POST /v1/moderations` as this server answers it: for clients, and for replicas of ours that ask."""

from collections.abc import Sequence
from typing import Annotated, Literal

import orjson
from pydantic import BaseModel, Field, ValidationError

from service import ids
from service.errors import Overloaded, Refusal
from service.moderation import Failure, Moderator
from service.moderation.verdicts import Verdict

_MOST = 1024  # texts in a request


class _Text(BaseModel):
    """A part of one text. Other parts, images, are not looked at here, and so refused."""

    type: Literal["text"]
    text: str


class _Request(BaseModel):
    """What is asked. Members that are not known are no reason to refuse it."""

    model: str | None = None
    input: (
        str
        | Annotated[list[str], Field(min_length=1, max_length=_MOST)]
        | Annotated[list[_Text], Field(min_length=1, max_length=_MOST)]
    )

    def texts(self) -> Sequence[str]:
        """Return what is to be judged, each by itself: parts are parts of one text."""
        if isinstance(self.input, str):
            return [self.input]
        parts = [part.text for part in self.input if isinstance(part, _Text)]
        return (
            ["\n".join(parts)] if parts else [text for text in self.input if isinstance(text, str)]
        )


async def answer(moderator: Moderator, tenant: str, body: bytes) -> bytes:
    """Answer a request's JSON with JSON. Raises `Refusal`."""
    request = _read(body)
    name = request.model or next(iter(moderator.classifiers), "")
    results = [_result(said) for said in await moderator.classify(tenant, name, request.texts())]
    return orjson.dumps({"id": ids.draw("modr"), "model": name, "results": results})


def _read(body: bytes) -> _Request:
    """Read a request. Raises `Refusal`, which quotes nothing of it."""
    try:
        return _Request.model_validate_json(body)
    except ValidationError as error:
        location = error.errors(include_input=False, include_url=False)[0]["loc"]
        param = str(location[0]) if location else None
        message = "'input' must be a text, or a list of texts; 'model' may name a classifier."
        raise Refusal("invalid_value", message, param) from None


def _result(said: Verdict | Failure) -> dict[str, object]:
    """Return the JSON form of a verdict. Raises `Overloaded` if there is none."""
    if isinstance(said, Failure):
        raise Overloaded(said.code, said.message)
    members = said.members()
    return {key: value for key, value in members.items() if key not in {"type", "model"}}
