"""Conversations that lost their slot: their keys and values are saved, and restored when they come back.

llama.cpp saves a slot to a file in a directory of its own (`--slot-save-path`); what is said can be
computed from what stands there. So nothing is saved unless the operator asks for it.
"""

import secrets
from collections import OrderedDict

import structlog

from service.backends.llama_cpp.server import LlamaServer
from service.backends.llama_cpp.slots import Owner
from service.errors import ModelError

log = structlog.get_logger(__name__)


class Spill:
    """The saved conversations of one server; the one that was saved longest ago makes room.

    Files are written over, since the server has no way to delete them: there are never more than
    `count`.
    """

    def __init__(self, server: LlamaServer, count: int) -> None:
        prefix = f"turnwire-{secrets.token_hex(8)}"
        self._server = server
        self._free = [f"{prefix}-{number}.bin" for number in range(count)]
        self._saved: OrderedDict[Owner, str] = OrderedDict()

    async def save(self, slot: int, owner: Owner) -> None:
        """Save a conversation that is about to lose its slot. A failure costs time later, no more."""
        name = self._room(owner)
        try:
            await self._server.save_slot(slot, name)
        except BaseException as error:
            self._free.append(name)
            if not isinstance(error, ModelError):
                raise
            log.warning("a slot was not saved")
        else:
            self._saved[owner] = name

    async def restore(self, slot: int, owner: Owner) -> bool:
        """Bring a conversation back into a slot; tell whether it is there."""
        if (name := self._saved.pop(owner, None)) is None:
            return False
        try:
            await self._server.restore_slot(slot, name)
        except ModelError:
            log.warning("a slot was not restored")
            return False
        finally:
            self._free.append(name)
        return True

    def _room(self, owner: Owner) -> str:
        if name := self._saved.pop(owner, None):
            return name
        return self._free.pop() if self._free else self._saved.popitem(last=False)[1]
