"""An issuer of tokens: where its signing keys are, and the copy of them that is kept here.

They are fetched at the start, every few minutes, and soon after a token names one that is not known;
never while somebody waits. When the issuer is away the old ones go on being good, for a day.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import orjson
import structlog
from jwt import PyJWK

from service.backends.http import Answer, Deadlines, HttpClient
from service.errors import ModelError
from service.identity.signing_keys import SigningKey, key_for, read_keys
from service.loopback import is_loopback

_DISCOVERY: Final = "/.well-known/openid-configuration"
_MOST: Final = 1024 * 1024  # bytes of an answer
_DEADLINES: Final = Deadlines(connect=5.0, answer=10.0, read=10.0)

log = structlog.get_logger(__name__)


class _Unusable(Exception):
    """What an issuer answered cannot be used. Says why in our words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """When keys are fetched, in seconds."""

    fresh: float = 300.0
    """After this they are fetched again."""
    pause: float = 5.0
    """Between two fetches at least, whatever tokens name, and wherever one failed."""
    stale: float = 86_400.0
    """After this, all fetches having failed, they are good for nothing."""
    deadline: float = 20.0
    """For all answers of one fetch."""


class Issuer:
    """The signing keys of one issuer. `clock` is monotonic, in seconds."""

    def __init__(
        self,
        name: str,
        algorithms: Sequence[str],
        jwks_url: str | None = None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `ValueError` where an address is not one that keys may be fetched from."""
        self.name = name
        self.algorithms = tuple(algorithms)
        self._jwks_url = jwks_url
        checked_url(jwks_url or name)
        self._pace = pace or Pace()
        self._clock = clock
        self._keys: list[SigningKey] = []
        self._fetched_at = clock()
        self._asked = asyncio.Event()
        self._working = True  # as far as has been logged
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Fetch the keys once, whether that succeeds or not, and keep them fresh from then on."""
        await self._refresh()
        self._task = asyncio.create_task(self._keep_fresh())

    async def stop(self) -> None:
        """Stop fetching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def key(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        """Return the key that a token names. Has the keys fetched soon if it is not among them."""
        if self._clock() - self._fetched_at >= self._pace.stale:
            return None
        key = key_for(self._keys, key_id, algorithm)
        if key is None:
            self._asked.set()
        return key

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._pace.pause)
            if self._working:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._pace.fresh - self._pace.pause):
                        await self._asked.wait()
            self._asked.clear()
            await self._refresh()

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(self._pace.deadline):
                keys = await self._fetch()
        except (
            ModelError,
            TimeoutError,
            ValueError,
        ) as error:  # the last of a host that is no name
            self._failed(type(error).__name__)
        except _Unusable as unusable:
            self._failed(str(unusable))
        else:
            self._keys, self._fetched_at, self._working = keys, self._clock(), True

    def _failed(self, reason: str) -> None:
        """Go on with the keys there are. Logged when it begins, not every few seconds."""
        if self._working:
            log.error("signing_keys_not_fetched", reason=reason, kept=len(self._keys))
        self._working = False

    async def _fetch(self) -> list[SigningKey]:
        url = self._jwks_url or await self._discover()
        keys = read_keys(await _get(url), self.algorithms)
        if not keys:
            raise _Unusable("no key of the set is for one of the algorithms")
        return keys

    async def _discover(self) -> str:
        """Ask where the keys are (OpenID Connect Discovery 1.0, §4)."""
        found = await _get(self.name.rstrip("/") + _DISCOVERY)
        if not isinstance(found, dict) or found.get("issuer") != self.name:
            raise _Unusable("the discovery document is another issuer's")
        try:
            url = checked_url(str(found.get("jwks_uri")))
        except ValueError as error:
            raise _Unusable(f"jwks_uri: {error}") from None
        if urlsplit(url).scheme != "https" and urlsplit(self.name).scheme == "https":
            raise _Unusable("jwks_uri: expected https, as the issuer's own")
        return url


def checked_url(url: str) -> str:
    """Return an address that keys may be fetched from. Raises `ValueError`, without quoting it."""
    address = urlsplit(url)
    here = is_loopback(address.hostname or "")
    if address.scheme != "https" and not (address.scheme == "http" and here):
        raise ValueError("expected an https address, or http on this machine")
    if not address.hostname or address.username or address.password or address.fragment:
        raise ValueError("expected https://host/path")
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError("expected an address without spaces and control characters")
    _ = address.port  # raises where it is no number
    return url


async def _get(url: str) -> object:
    """Return a JSON document. Raises `ModelError` where it cannot be had, and `_Unusable`."""
    address = urlsplit(url)
    http = HttpClient(f"{address.scheme}://{address.netloc}", {}, _DEADLINES)
    path = (address.path or "/") + (f"?{address.query}" if address.query else "")
    try:
        async with http.exchange("GET", path, [], _DEADLINES.answer) as answer:
            if answer.status != 200:
                raise _Unusable(f"HTTP status {answer.status}")
            return orjson.loads(await _all(answer))
    except orjson.JSONDecodeError:
        raise _Unusable("the answer is not JSON") from None
    finally:
        http.close()


async def _all(answer: Answer) -> bytes:
    if (body := await answer.within(_MOST)) is None:
        raise _Unusable(f"the answer has more than {_MOST} bytes")
    return body
