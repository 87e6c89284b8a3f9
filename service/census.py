"""The connections of a process: which are open, which have left turns behind, and how many of whose."""

import asyncio
from collections import Counter
from collections.abc import Set as AbstractSet

from service.connection import Connection


class Census:
    """Counts connections. A tenant of which there is nothing takes no memory: there may be any number."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._ended: set[Connection] = set()
        """Those of which something is left."""
        self._background = 0
        self._unattended: Counter[str] = Counter()
        self._nobody = asyncio.Event()
        self._nobody.set()

    @property
    def open(self) -> AbstractSet[Connection]:
        """Those that are open, as of now."""
        return frozenset(self._open)

    @property
    def all(self) -> AbstractSet[Connection]:
        """Those that are open, or of which something is left, as of now."""
        return self._open | self._ended

    @property
    def clients(self) -> int:
        """How many have a client at their other end."""
        return len(self._open) - self._background

    def unattended(self, tenant: str) -> int:
        """How many of a tenant's responses are made without a client."""
        return self._unattended.get(tenant, 0)

    def opened(self, connection: Connection) -> None:
        """Count one that is open from now on."""
        self._open.add(connection)
        self._nobody.clear()
        if connection.background:
            self._background += 1
            self._count(connection.tenant, 1)

    def left(self, connection: Connection) -> None:
        """Count one as ended; turns that it has detached go on."""
        self._open.discard(connection)
        self._ended.add(connection)
        self._count(connection.tenant, connection.detached)
        if connection.background:
            self._background -= 1
            self._count(connection.tenant, -1)

    def settled(self, connection: Connection) -> None:
        """Forget one that has ended: nothing of it is left."""
        if connection in self._ended:
            self._ended.discard(connection)
            self._count(connection.tenant, -connection.detached)
        if not self._open and not self._ended:
            self._nobody.set()

    async def empty(self) -> None:
        """Return when nothing is open, and nothing is left."""
        await self._nobody.wait()

    def _count(self, tenant: str, responses: int) -> None:
        self._unattended[tenant] += responses
        if not self._unattended[tenant]:
            del self._unattended[tenant]
