"""How long a client that is behind is fed on: the engine waits for it, but not all that it says can wait."""

import asyncio

from service.limits import PATIENCE, Limits


class Patience:
    """Watches what is unsent to one client.

    An event may be of any size, and so may what a client that reads has to catch up with. A client is
    given up when much more has come on top since it was last nearest to having caught up, and that is
    longer ago than anything may stay unread.
    """

    __slots__ = ("_bound", "_deadline", "_least", "_limit", "_loop", "_since")

    def __init__(self, limits: Limits) -> None:
        self._limit = limits.outbound_bytes
        self._bound = PATIENCE * limits.outbound_bytes
        self._deadline = limits.send_deadline
        self._loop = asyncio.get_running_loop()
        self._least = 0  # unsent bytes at `_since`, while there are too many
        self._since = 0.0

    def is_over(self, unsent: int) -> bool:
        """Tell whether the client is given up; to be asked before more is put on top of `unsent`."""
        if unsent <= self._limit:
            self._least = 0
            return False
        if not self._least or unsent < self._least:
            self._least, self._since = unsent, self._loop.time()
            return False
        too_much = unsent - self._least > self._bound
        return too_much and self._loop.time() - self._since >= self._deadline
