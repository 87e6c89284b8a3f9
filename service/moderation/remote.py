"""A classifier behind `POST /v1/moderations`, as OpenAI and compatible servers have it."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from service.backends.http import Answer, HttpClient
from service.errors import ModelError
from service.moderation.verdicts import Failure, Verdict, combined

_PIECE, _OVERLAP = 16_384, 256
"""Characters: such classifiers refuse longer texts. What a cut would part is whole in one piece."""
_PIECES = 32  # in a request
_ANSWER = 4 * 1024 * 1024  # bytes
_UNAVAILABLE = Failure(
    "classifier_unavailable", "The classifier cannot be reached, or did not answer in time."
)


class _Unusable(Exception):
    """An answer without verdicts."""


class RemoteClassifier:
    """Asks a server of the operator's; `name` is both what clients ask for and the server's model."""

    def __init__(self, name: str, http: HttpClient, deadline: float) -> None:
        self.name = name
        self.version = name  # the server does not tell what it changes under a name
        self._http = http
        self._deadline = deadline
        """Seconds for all texts of a screening together."""

    async def classify(self, texts: Sequence[str]) -> Sequence[Verdict] | Failure:
        """Ask for verdicts on all texts, the long ones in pieces."""
        try:
            async with asyncio.timeout(self._deadline):
                return await self._classify(texts)
        except (ModelError, TimeoutError):
            return _UNAVAILABLE
        except _Unusable as unusable:
            return Failure("classifier_error", str(unusable))

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    async def _classify(self, texts: Sequence[str]) -> Sequence[Verdict]:
        pieces = [(index, piece) for index, text in enumerate(texts) for piece in _pieces(text)]
        said: list[list[Verdict]] = [[] for _ in texts]
        for begin in range(0, len(pieces), _PIECES):
            asked = pieces[begin : begin + _PIECES]
            verdicts = await self._ask([piece for _, piece in asked])
            for (index, _), verdict in zip(asked, verdicts, strict=True):
                said[index].append(verdict)
        return [combined(self.name, verdicts) for verdicts in said]

    async def _ask(self, pieces: Sequence[str]) -> Sequence[Verdict]:
        body = orjson.dumps({"model": self.name, "input": pieces})
        async with self._http.exchange("POST", "/v1/moderations", [body], self._deadline) as answer:
            if answer.status != 200:
                raise _Unusable(f"The classifier answered with HTTP status {answer.status}.")
            results = _results(await _all(answer), len(pieces))
        return [_verdict(self.name, result) for result in results]


async def _all(answer: Answer) -> bytes:
    if (body := await answer.within(_ANSWER)) is None:
        raise _Unusable("The classifier's answer is too long.")
    return body


def _pieces(text: str) -> Iterator[str]:
    for begin in range(0, max(1, len(text) - _OVERLAP), _PIECE - _OVERLAP):
        yield text[begin : begin + _PIECE]


def _results(body: bytes, count: int) -> Sequence[Any]:
    """Return a result for each text. Raises `_Unusable`."""
    try:
        results = orjson.loads(body)["results"]
        if isinstance(results, list) and len(results) == count:
            return results
    except (ValueError, TypeError, KeyError):
        pass
    raise _Unusable("The classifier's answer does not hold a result for each text.")


def _verdict(model: str, result: Any) -> Verdict:
    """Read a result. Categories without a score have that of their flag. Raises `_Unusable`."""
    try:
        flags = {category: bool(flag) for category, flag in result["categories"].items()}
        told = result.get("category_scores") or {}
        scores = {category: float(told.get(category, flag)) for category, flag in flags.items()}
        flagged = frozenset(category for category, flag in flags.items() if flag)
        return Verdict(model, scores, flagged, flagged=bool(flagged) or bool(result["flagged"]))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise _Unusable("The classifier's answer holds a result without categories.") from None
