"""One server: a bounded number of connections to it, and how it fares."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from valkey.asyncio.connection import Connection
from valkey.exceptions import AuthenticationError, ResponseError, ValkeyError

from service.store.valkey.address import Address, Host
from service.store.valkey.circuit import Circuit
from service.store.valkey.functions import Command

_MOST_CONNECTIONS = 64


class Away(Exception):
    """A server cannot be reached, did not answer in time, or is left alone because of that."""


class Unwelcome(Away):
    """A server does not take the user and password that it was shown."""


class Node:
    """Asks one server, several commands at a time on a connection that is nobody else's meanwhile."""

    def __init__(self, address: Address, host: Host) -> None:
        self.host = host
        self._address = address
        self._idle: list[Connection] = []
        self._room = asyncio.Semaphore(_MOST_CONNECTIONS)
        self._stopped = False
        self.reach = Circuit()
        """Whether it answers."""
        self.safety = Circuit()
        """Whether it keeps what it is given as durably as asked."""

    @property
    def well(self) -> bool:
        """Whether a put here is likely to succeed."""
        return not self.reach.open and not self.safety.open

    async def ask(self, commands: Sequence[Command], seconds: float) -> list[Any]:
        """Return all answers; those that are errors are `ResponseError`. Raises `Away`.

        A connection that was not read to its end is closed: its next answer would be another's.
        """
        if not self.reach.allows(time.monotonic()):
            raise Away
        try:
            async with self._connection(seconds) as connection, asyncio.timeout(seconds):
                replies = await _converse(connection, commands)
        except (ValkeyError, OSError) as error:
            await self._failed()
            raise _away(error) from None
        self.reach.succeeded()
        return replies

    async def forget(self) -> None:
        """Close what is idle: the name may lead elsewhere by now."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    async def stop(self) -> None:
        """Close all connections, those in use as soon as they are not."""
        self._stopped = True
        await self.forget()

    @asynccontextmanager
    async def _connection(self, seconds: float) -> AsyncIterator[Connection]:
        await self._wait_for_room(seconds)
        connection = self._idle.pop() if self._idle else self._address.connection(self.host)
        try:
            yield connection
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        else:
            await self._put_back(connection)
        finally:
            self._room.release()

    async def _wait_for_room(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._room.acquire()
        except TimeoutError:
            raise Away from None  # it is busy, not ill

    async def _put_back(self, connection: Connection) -> None:
        if self._stopped:
            await connection.disconnect(nowait=True)
        else:
            self._idle.append(connection)

    async def _failed(self) -> None:
        """Take it that the others are as dead as this one: each would cost a trial."""
        self.reach.failed(time.monotonic())
        await self.forget()


async def _converse(connection: Connection, commands: Sequence[Command]) -> list[Any]:
    packed = connection.pack_commands(commands)
    await connection.send_packed_command(packed, check_health=False)
    return [await _reply(connection) for _ in commands]


async def _reply(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def _away(error: Exception) -> Away:
    return Unwelcome() if isinstance(error, AuthenticationError) else Away()
