"""A compactor that breaks where it is told to, as other people's code breaks: quoting what it was given."""

import asyncio
import threading

from service.backends import Backend
from service.compaction import Compacted, Conversation
from service.compaction.compactors import Budget, RecentCompactor
from tests.canaries.speech import BREAKS


class Breaking:
    """Compacts like `RecentCompactor`, mostly."""

    def __init__(self, budget: Budget) -> None:
        self._recent = RecentCompactor(budget)

    async def compact(self, backend: Backend, conversation: Conversation) -> Compacted:
        """Compact. Raises `RuntimeError` because of a `KeyError`, both in the client's words."""
        if BREAKS in (said := str(conversation)):
            _break_elsewhere(said)
            try:
                raise KeyError(said)
            except KeyError as error:
                raise RuntimeError(f"cannot compact {said}") from error
        return await self._recent.compact(backend, conversation)


class _Unraisable:
    """Breaks when it is let go of."""

    def __init__(self, said: str) -> None:
        self._said = said

    def __del__(self) -> None:
        raise RuntimeError(self._said)


def _break_elsewhere(said: str) -> None:
    """Break where nobody can catch it: in a thread, in a task, in a callback, in a destructor."""

    def broken() -> None:
        raise RuntimeError(said)

    async def broken_task() -> None:
        broken()

    thread = threading.Thread(target=broken, name="broken")
    thread.start()
    thread.join()
    asyncio.get_running_loop().call_soon(broken)
    asyncio.get_running_loop().create_task(broken_task())
    _Unraisable(said)
