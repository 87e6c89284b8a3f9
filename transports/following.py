"""Following a response to its end, which must be its own end and not only that of who tells it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final

from service.engine import Engine
from service.errors import Ending, NotFound, Overloaded, SessionError
from service.identity import Identity
from turnwire.delta import Event, is_last

_REVOKED: Final = "The credential is no longer good. Come back with another."
_UNDER_WAY: Final = frozenset({"queued", "in_progress"})


async def follow(
    engine: Engine, caller: Identity, response_id: str, after: int | None
) -> AsyncGenerator[Sequence[Event], None]:
    """Return the response's events after a number in batches. Raises `NotFound`.

    The batches raise `Overloaded` where they end before the response does: a server that goes away
    may have given it up. They raise `SessionError` once the caller may not be here any more.
    """
    told = await engine.responses.follow(caller.tenant, response_id, after)
    return _to_the_end(told, engine, caller, response_id)


async def _to_the_end(
    told: AsyncGenerator[Sequence[Event], None], engine: Engine, caller: Identity, response_id: str
) -> AsyncGenerator[Sequence[Event], None]:
    last = None
    async with aclosing(told):
        async for batch in told:
            if not engine.welcomes(caller):
                raise SessionError(Ending.REVOKED, _REVOKED)
            yield batch
            last = batch[-1] if batch else last
    if not (is_last(last) if last else await _had_ended(engine, caller.tenant, response_id)):
        message = "What follows of this response is lost here. Ask for the response again."
        raise Overloaded("server_is_overloaded", message)


async def _had_ended(engine: Engine, tenant: str, response_id: str) -> bool:
    """Tell whether a response has ended, so that there was nothing left to tell."""
    try:
        response = await engine.responses.get(tenant, response_id)
    except NotFound:
        return False
    return response.status not in _UNDER_WAY
