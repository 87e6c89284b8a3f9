"""Which models an upstream has, and whether it is well."""

import asyncio
from collections.abc import Sequence

import orjson

from service.backends.http import HttpClient
from service.backends.responses.errors import refusal, senseless
from service.errors import Unavailable

_PATH = "/v1/models"
_LIST, _CHECK = 10.0, 2.0  # seconds
_NOT_THERE = {404, 405}


class Catalog:
    """An upstream's list of models."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    async def models(self) -> Sequence[str]:
        """Return the names of its models. Raises `ModelError`."""
        status, content = await self._asked(_LIST)
        if status != 200:
            raise refusal(status, content)
        try:
            return [str(model["id"]) for model in orjson.loads(content)["data"]]
        except (LookupError, TypeError, ValueError) as error:
            raise senseless() from error

    async def check(self) -> None:
        """Ask whether it is well: not every upstream that is has such a list. Raises `ModelError`."""
        status, content = await self._asked(_CHECK)
        if status != 200 and status not in _NOT_THERE:
            raise refusal(status, content)

    async def _asked(self, seconds: float) -> tuple[int, bytes]:
        try:
            async with (
                asyncio.timeout(seconds),
                self._http.exchange("GET", _PATH, [], seconds) as answer,
            ):
                return answer.status, await answer.all()
        except TimeoutError as error:
            raise Unavailable("server_error", "The model server did not answer in time.") from error
