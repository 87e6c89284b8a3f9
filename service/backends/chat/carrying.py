"""Which way a server takes the ids of a prompt: tried out, since versions differ and say nothing.

Many servers ignore members that they do not know, and would answer a prompt of ours that they never
read. So a few ids are sent with a message that is much longer, and the server has to show which it read.
"""

from typing import Any

import orjson
import structlog

from service.backends.chat.kinds import Carrier
from service.backends.chat.server import Server
from service.backends.hints import salt
from service.backends.meaning import WORDS
from service.errors import ModelError, Unavailable
from service.rendering.renderer import Renderer

log = structlog.get_logger(__name__)

_IDS = [5, 4, 3, 2]  # in every vocabulary
_LONGER = "one two three four five six seven eight"


async def carrier_of(server: Server, model: str, renderer: Renderer) -> Carrier | None:
    """Return the best way in which a model's server takes ids that a renderer makes.

    Raises `Unavailable`.
    """
    if not await server.means(model, await renderer.ids_of(WORDS)):
        log.error(
            "a model server has another vocabulary than its tokenizer's directory: it is told "
            "conversations as messages",
            model=model,
        )
        return None
    for carrier in server.kind.carriers:
        if await _takes(server, model, carrier):
            log.info("a model server takes token ids", model=model, way=carrier.name)
            return carrier
    log.warning(
        "a model server takes no token ids: it is told conversations as messages", model=model
    )
    return None


async def _takes(server: Server, model: str, carrier: Carrier) -> bool:
    try:
        answer = await server.complete(_probe(server, model, carrier))
    except Unavailable:
        raise
    except ModelError as error:
        log.info("a model server refused token ids", model=model, code=error.code)
        return False
    return _read_ids(answer)


def _probe(server: Server, model: str, carrier: Carrier) -> list[bytes]:
    members: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": _LONGER}],
        "max_tokens": 1,
        "stream": False,
        **carrier.proves,
    }
    if server.kind.salted:
        members["cache_salt"] = salt("")
    ids = ",".join(map(str, _IDS)).encode()
    return [b"{", carrier.opens, ids, carrier.closes, b",", orjson.dumps(members)[1:]]


def _read_ids(answer: dict[str, Any]) -> bool:
    """Whether a server read the ids: it repeats them, or has at least counted as many."""
    extension = answer.get("sglext") or {}
    repeated = answer.get("prompt_token_ids") or extension.get("input_ids")
    if repeated is not None:
        return bool(repeated == _IDS)
    usage = answer.get("usage") or {}
    return bool(usage.get("prompt_tokens") == len(_IDS))
