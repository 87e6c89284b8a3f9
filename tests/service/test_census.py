import asyncio

import pytest

from service.backends.simulator.backend import Simulator
from service.background import Background
from service.census import Census
from service.connection import Connection, ConnectionLimits
from service.engine import EngineLimits
from service.errors import Ending
from service.identity import Identity
from service.session import SessionLimits
from tests.engines import engine_of


async def opened(*, background: bool) -> Connection:
    limits = ConnectionLimits(session=SessionLimits(background=background))
    engine = engine_of(Simulator(), EngineLimits(connection=limits))
    return engine.connect(Identity("alice"), "test", Background())


async def test_what_is_left_of_a_connection_counts_until_it_is_settled() -> None:
    census, connection = Census(), await opened(background=False)
    census.opened(connection)
    assert (census.clients, census.open) == (1, {connection})
    census.left(connection)
    assert (census.clients, census.open, census.all) == (0, set(), {connection})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await census.empty()
    census.settled(connection)
    async with asyncio.timeout(5):
        await census.empty()
    connection.close(Ending.GONE)


async def test_a_response_in_the_background_is_its_tenants_and_has_no_client() -> None:
    census, connection = Census(), await opened(background=True)
    census.opened(connection)
    assert (census.clients, census.unattended("alice"), census.unattended("bob")) == (0, 1, 0)
    census.left(connection)
    census.settled(connection)
    census.settled(connection)
    assert (census.clients, census.unattended("alice")) == (0, 0)
    connection.close(Ending.GONE)


async def test_tenants_that_have_gone_take_no_memory() -> None:
    census = Census()
    for background in (True, False):
        connection = await opened(background=background)
        census.opened(connection)
        census.left(connection)
        census.settled(connection)
        connection.close(Ending.GONE)
    assert not census._unattended
